"""GELU, standardization and softmax with derivatives written by hand, for CPUs.

XLA's CPU backend computes the inputs of a derivative a second time, in slow fused loops, or in several passes. Here the
derivative of each function is a rule (`jax.custom_jvp`) that reuses the parts of the value. Optimization barriers keep
those parts. Rules are linear in the tangent, so forward mode, reverse mode and their compositions all work. Compilers
for GPUs and TPUs fuse well, so the functions are the plain ones there. The choice is made when a program is traced.

`python -m benchmarks.pieces` measures the gain of each.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from framework.api import Array


def gelu(x: Array, approximate: bool = True) -> Array:
    """Gaussian error linear unit activation function

    x Φ(x), where Φ is the distribution function of the normal distribution: values and options are those of
    `jax.nn.gelu`. On a CPU the slope Φ(x) + x Φ'(x) is computed beside the value. Source: Hendrycks and Gimpel 2016,
    arXiv:1606.08415.

    Args:
      x: array of any shape, floating-point.
      approximate: take the tanh formula for Φ, the default of `jax.nn.gelu`; else the exact one by erf.
    """
    if not _on_cpu():
        return jax.nn.gelu(x, approximate=approximate)
    return _gelu_by_tanh(x) if approximate else _gelu_by_erf(x)


def standardize(x: Array, epsilon: float) -> Array:
    """Shift each row of the last axis to mean 0, and scale it to variance 1.

    Args:
      x: [..., F], float32 or wider.
      epsilon: number added to the variance.
    """
    return _standardize(x, epsilon) if _on_cpu() else _rows(x, epsilon)[0]


def softmax(x: Array) -> Array:
    """Softmax along the last axis: the values of `jax.nn.softmax`, with a derivative that needs only them.

    Args:
      x: [..., K], with at least one finite value in each row.
    """
    return _softmax(x) if _on_cpu() else jax.nn.softmax(x)


@jax.custom_jvp
def _gelu_by_erf(x: Array) -> Array:
    return jax.nn.gelu(x, approximate=False)


@_gelu_by_erf.defjvp
def _gelu_by_erf_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    x = lax.optimization_barrier(primals[0])
    below = 0.5 * (1 + lax.erf(x * _like(math.sqrt(0.5), x)))
    density = _like(1 / math.sqrt(2 * math.pi), x) * jnp.exp(-0.5 * x * x)
    value, slope = lax.optimization_barrier((x * below, below + x * density))
    return value, slope * tangents[0]


@jax.custom_jvp
def _gelu_by_tanh(x: Array) -> Array:
    return jax.nn.gelu(x, approximate=True)


@_gelu_by_tanh.defjvp
def _gelu_by_tanh_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    x = lax.optimization_barrier(primals[0])
    scale, cubic = _like(math.sqrt(2 / math.pi), x), _like(0.044715, x)
    # 0.5 (1 + tanh u) by the sigmoid of 2 u, which keeps its digits where x is far below 0.
    below = jax.nn.sigmoid(2 * scale * (x + cubic * x * x * x))
    density = 2 * below * (1 - below) * scale * (1 + 3 * cubic * x * x)
    value, slope = lax.optimization_barrier((x * below, below + x * density))
    return value, slope * tangents[0]


@jax.custom_jvp
def _softmax(x: Array) -> Array:
    return jax.nn.softmax(x)


@_softmax.defjvp
def _softmax_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    shares = lax.optimization_barrier(jax.nn.softmax(lax.optimization_barrier(primals[0])))
    change = tangents[0]
    return shares, shares * (change - (shares * change).sum(-1, keepdims=True))


def _standardized(x: Array, epsilon: float) -> Array:
    return _rows(x, epsilon)[0]


_standardize = jax.custom_jvp(_standardized, nondiff_argnums=(1,))


@_standardize.defjvp
def _standardize_jvp(epsilon: float, primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    values, scale = lax.optimization_barrier(_rows(lax.optimization_barrier(primals[0]), epsilon))
    change = tangents[0]
    along = (values * change).mean(-1, keepdims=True)
    return values, scale * (change - change.mean(-1, keepdims=True) - values * along)


def _rows(x: Array, epsilon: float) -> tuple[Array, Array]:
    """Return standardized rows [..., F], and the factors of the rows [..., 1]."""
    deviations = x - x.mean(-1, keepdims=True)
    scale = lax.rsqrt((deviations * deviations).mean(-1, keepdims=True) + _like(epsilon, x))
    return deviations * scale, scale


def single(dtype: Any) -> Any:
    """Return the dtype for sums over values of a dtype: float64 for float64, else float32."""
    return dtype if dtype == jnp.float64 else jnp.float32


def _like(number: Any, x: Array) -> Array:
    """Convert a number, traced or not, to the dtype of an array."""
    return jnp.asarray(number, x.dtype)


def _on_cpu() -> bool:
    return jax.default_backend() == "cpu"
