"""Floating-point operations of one primitive, counted as XLA's `HloCostAnalysis` counts them.

A product of matrices of m × k and k × n has 2 m k n, an operation on each element has one for each element of its
result. Transcendental functions have none: XLA counts them apart. Moving and reshaping data has none.
"""

from __future__ import annotations

import math
from typing import Any

ELEMENTWISE = frozenset(
    [
        "abs",
        "add",
        "add_any",
        "and",
        "ceil",
        "clamp",
        "complex",
        "conj",
        "convert_element_type",
        "div",
        "eq",
        "floor",
        "ge",
        "gt",
        "imag",
        "is_finite",
        "le",
        "lt",
        "max",
        "min",
        "mul",
        "ne",
        "neg",
        "nextafter",
        "not",
        "or",
        "population_count",
        "real",
        "rem",
        "round",
        "select_and",
        "select_n",
        "shift_left",
        "shift_right_arithmetic",
        "shift_right_logical",
        "sign",
        "square",
        "sub",
        "xor",
    ]
)
"""Primitives with one operation for each element of their result."""

REDUCTIONS = frozenset(
    [
        "reduce_sum",
        "reduce_max",
        "reduce_min",
        "reduce_prod",
        "reduce_and",
        "reduce_or",
        "reduce_xor",
        "argmax",
        "argmin",
    ]
)

SEVERAL = {"logistic": 3, "erf_inv": 30, "threefry2x32": 55, "random_bits": 55}
"""Operations for each element of the result, of primitives that XLA writes out as several."""


def flops_of(equation: Any) -> float:
    """Count the floating-point operations of an equation without inner programs."""
    name, params = equation.primitive.name, equation.params
    size = math.prod(equation.outvars[0].aval.shape) if equation.outvars else 0
    if name in ELEMENTWISE:
        return size
    if name in SEVERAL:
        return SEVERAL[name] * size
    if name == "dot_general":
        return _product(equation)
    if name == "conv_general_dilated":
        return _convolution(equation)
    if name in REDUCTIONS:
        return math.prod(equation.invars[0].aval.shape) - size
    if name == "integer_pow":
        return size * max(abs(params["y"]).bit_length() + abs(params["y"]).bit_count() - 2, 1)
    if name.startswith("reduce_window") or name in ("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp"):
        return size * max(math.prod(params.get("window_dimensions", (2,))) - 1, 1)
    if name.startswith("select_and_scatter"):
        return math.prod(equation.invars[0].aval.shape) * math.prod(params["window_dimensions"])
    if name.startswith("scatter") and name != "scatter":
        return math.prod(equation.invars[2].aval.shape)
    return 0


def _product(equation: Any) -> float:
    (contracting, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracting)


def _convolution(equation: Any) -> float:
    """Count products with elements of the inputs only, not with padding nor with the gaps of a dilation."""
    params = equation.params
    numbers = params["dimension_numbers"]
    inputs, kernel = (var.aval.shape for var in equation.invars)
    outputs = equation.outvars[0].aval.shape
    pairs = 1
    for axis in range(len(inputs) - 2):
        pairs *= _pairs(
            inputs[numbers.lhs_spec[axis + 2]],
            kernel[numbers.rhs_spec[axis + 2]],
            outputs[numbers.out_spec[axis + 2]],
            params["window_strides"][axis],
            params["padding"][axis][0],
            (params["lhs_dilation"][axis], params["rhs_dilation"][axis]),
        )
    batch, features = outputs[numbers.out_spec[0]], outputs[numbers.out_spec[1]]
    return 2 * pairs * batch * features * kernel[numbers.rhs_spec[1]] / params["batch_group_count"]


def _pairs(size: int, window: int, out: int, stride: int, before: int, dilations: tuple[int, int]) -> int:
    """Count the pairs of an output and a position of the window that meet an element of the inputs, along one axis."""
    base, spread = dilations
    found = 0
    for position in range(window):
        offset = position * spread - before  # the output i meets the dilated position i * stride + offset
        for i in range(out):
            at = i * stride + offset
            found += 0 <= at <= (size - 1) * base and at % base == 0
    return found
