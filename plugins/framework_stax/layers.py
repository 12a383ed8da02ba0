"""Layers that stax lacks, or has with a trap. Images are [B, H, W, C], kernels [H, W, in, out].

Outputs have the dtype of the inputs. Initial weights and biases have the defaults of stock stax, but for zero biases.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from framework.api import Array, Fraction, Model, Shape, Size, as_model
from framework.errors import ConfigError
from framework_stax.convolution import convolve
from framework_stax.initializers import Initializer, initializer
from framework_stax.moments import Moments, batch_moments
from framework_stax.pooling import max_windows
from framework_stax.tiles import examplewise
from framework_stax.windows import count_windows, reduce_windows

Padding = Literal["VALID", "SAME"]


class Linear(NamedTuple):
    """Parameters of a linear map, in the order of stock stax layers."""

    W: Array  # [in, out], or a kernel [H, W, in, out]
    b: Any  # [out], or () without a bias


class Averages(NamedTuple):
    """Running averages of a batch's moments, free of the bias of their first values.

    Attributes:
      mean: [features], 0 before the first update.
      variance: [features], 1 before the first update.
      weight: float32 [], how much of the averages comes from batches: 1 - momentum ** updates.
    """

    mean: Array
    variance: Array
    weight: Array


class Affine(NamedTuple):
    """Shift and scale after a normalization, in the order of stock stax."""

    beta: Any  # [F], or () without a shift
    gamma: Any  # [F], or () without a scale


def Dense(
    out_dim: Size,
    W_init: Initializer = "glorot_normal",  # noqa: N803
    b_init: Initializer = "zeros",
    bias: bool = True,
) -> Model:
    """Linear map of the last axis: [..., in_dim] to [..., out_dim].

    Args:
      out_dim: features of the outputs.
      W_init: initial weights [in_dim, out_dim], a name of `jax.nn.initializers`.
      b_init: initial bias [out_dim], likewise.
      bias: add a bias.

    Raises: ConfigError if the inputs have no axis of features, such as [B].
    """
    make_W, make_b = initializer(W_init), initializer(b_init)

    def init(key: Array, in_shape: Shape) -> tuple[Shape, Linear]:
        if in_shape in ((), (-1,)):  # -1 stands for the batch
            raise ConfigError("Dense expects inputs [B, ..., features]; one number of an example is [B, 1].")
        W_key, b_key = jax.random.split(key)
        b = make_b(b_key, (out_dim,)) if bias else ()
        return (*in_shape[:-1], out_dim), Linear(make_W(W_key, (in_shape[-1], out_dim)), b)

    def apply(params: Linear, inputs: Array) -> Array:
        W, b = params
        outputs = linear(inputs, W)
        return outputs + b if bias else outputs

    return as_model((init, apply), "Dense")


def linear(inputs: Array, weights: Array) -> Array:
    """Multiply the last axis with a matrix: [..., in] and [in, out] to [..., out].

    All other axes are merged for the product. Otherwise XLA's CPU backend makes a transposed copy of the inputs, or of
    the outputs' gradient, for the gradient of the weights, which sums over those axes. In a small transformer these
    copies take as long as all products together: `python -m benchmarks.pieces linear`.
    """
    if inputs.ndim <= 2:
        return jnp.dot(inputs, weights)
    flat = inputs.reshape(-1, inputs.shape[-1])
    return jnp.dot(flat, weights).reshape(*inputs.shape[:-1], weights.shape[-1])


def Conv(
    out_chan: Size,
    filter_shape: tuple[Size, Size],
    strides: tuple[Size, Size] = (1, 1),
    padding: Padding = "VALID",
    W_init: Initializer = "glorot_normal",  # noqa: N803
    b_init: Initializer = "zeros",
) -> Model:
    """Convolution with a bias: [B, H, W, C] to [B, rows, columns, out_chan].

    On CPUs it is faster than the stock layer: see `framework_stax.convolution.convolve`.

    Args:
      out_chan: channels of the outputs.
      filter_shape: height and width of the kernel.
      strides: steps between two positions, down and across.
      padding: "VALID" for positions where the kernel lies inside, "SAME" to keep height and width at stride 1.
      W_init: initial weights [height, width, in, out], a name of `jax.nn.initializers`.
      b_init: initial bias [out], likewise.

    Raises: ConfigError if the inputs are not [B, H, W, C], or are smaller than a kernel that has to lie inside.
    """
    make_W, make_b = initializer(W_init), initializer(b_init)

    def init(key: Array, in_shape: Shape) -> tuple[Shape, Linear]:
        positions = count_windows(in_shape, filter_shape, strides, padding, "Conv")
        W_key, b_key = jax.random.split(key)
        W = make_W(W_key, (*filter_shape, in_shape[-1], out_chan))
        return (in_shape[0], *positions, out_chan), Linear(W, make_b(b_key, (out_chan,)))

    def apply(params: Linear, inputs: Array) -> Array:
        W, b = params
        return convolve(inputs, W, strides, padding) + b

    return examplewise(as_model((init, apply), "Conv"))


def MaxPool(
    window_shape: tuple[Size, ...] = (2, 2), strides: tuple[Size, ...] | None = None, padding: Padding = "VALID"
) -> Model:
    """Maximum of each window: [B, *spatial, C] to [B, *windows, C]. Windows lie side by side by default.

    Put Relu after it, not before: that is the same function on fewer values.

    Args:
      window_shape: extent along each spatial axis.
      strides: steps between two windows; null takes the window's extent. (Stock stax takes 1.)
      padding: "VALID" for windows that lie inside, "SAME" for windows that cover all.

    Raises: ConfigError if the inputs have other axes, or are smaller than a window that has to lie inside.
    """
    steps = window_shape if strides is None else strides

    def init(key: Array, in_shape: Shape) -> tuple[Shape, tuple[()]]:
        return (in_shape[0], *count_windows(in_shape, window_shape, steps, padding, "MaxPool"), in_shape[-1]), ()

    def apply(params: tuple[()], inputs: Array) -> Array:
        return max_windows(inputs, tuple(window_shape), tuple(steps), padding)

    return examplewise(as_model((init, apply), "MaxPool"))


def AvgPool(
    window_shape: tuple[Size, ...] = (2, 2), strides: tuple[Size, ...] | None = None, padding: Padding = "VALID"
) -> Model:
    """Mean of each window: [B, *spatial, C] to [B, *windows, C]. Windows lie side by side by default.

    Padding does not count.

    Args:
      window_shape: extent along each spatial axis.
      strides: steps between two windows; null takes the window's extent. (Stock stax takes 1.)
      padding: "VALID" for windows that lie inside, "SAME" for windows that cover all.

    Raises: ConfigError if the inputs have other axes, or are smaller than a window that has to lie inside.
    """
    steps = window_shape if strides is None else strides

    def init(key: Array, in_shape: Shape) -> tuple[Shape, tuple[()]]:
        return (in_shape[0], *count_windows(in_shape, window_shape, steps, padding, "AvgPool"), in_shape[-1]), ()

    def apply(params: tuple[()], inputs: Array) -> Array:
        ones = jnp.ones((1, *inputs.shape[1:-1], 1), inputs.dtype)
        total, count = (reduce_windows(x, lax.add, 0, window_shape, steps, padding) for x in (inputs, ones))
        return total / count

    return examplewise(as_model((init, apply), "AvgPool"))


def Dropout(rate: Fraction) -> Model:
    """Set a share of the values to 0 in training, and scale the others up; do nothing in evaluation.

    Stock stax keeps the share `rate`; this layer drops it. Source: Srivastava et al. 2014, "Dropout", with the scaling
    moved from evaluation to training.

    Args:
      rate: the share that is dropped, in [0, 1).

    Raises: ConfigError if the rate is not in [0, 1), or if no key is given in training.
    """
    known = isinstance(rate, int | float)  # a traced rate can be neither checked nor compared
    if known and not 0 <= rate < 1:
        raise ConfigError(f"Dropout expects a rate in [0, 1), the share that is dropped, found {rate}.")

    def init(key: Array, in_shape: Shape) -> tuple[Shape, tuple[()]]:
        return in_shape, ()

    def apply(params: tuple[()], inputs: Array, rng: Array | None, train: bool) -> Array:
        if not train or (known and rate == 0):
            return inputs
        if rng is None:
            raise ConfigError("Dropout draws noise in training and was given no key; pass key=… or train=False.")
        return jnp.where(jax.random.bernoulli(rng, 1 - rate, inputs.shape), inputs / (1 - rate), 0)

    return as_model((init, apply), "Dropout")


def BatchNorm(
    axis: tuple[int, ...] | None = None,
    momentum: Fraction = 0.99,
    epsilon: float = 1e-5,
    center: bool = True,
    scale: bool = True,
) -> Model:
    """Batch normalization: by the moments of the batch in training, by their running averages in evaluation.

    If a strategy maps over parts of the batch (an axis named "batch"), the moments are those of the whole batch. So
    outputs, gradients and running averages are those of one device. Source: Ioffe and Szegedy 2015, arXiv:1502.03167.

    The averages are corrected for their bias, as Adam's are (Kingma and Ba 2015, arXiv:1412.6980): after t batches
    they are the weighted mean of these batches' moments alone. So a short run can be evaluated too.

    Args:
      axis: axes over which moments are taken, the batch's 0 among them; null takes all except the last.
      momentum: share of the running averages that stays at each step, once there were many. 0.99 averages about the
        last hundred batches.
      epsilon: number added to the variance, which a constant feature has none of; 1e-5 as in stock stax.
      center: add a learned beta, at first 0.
      scale: multiply by a learned gamma, at first 1.

    Raises: ConfigError if momentum is not in [0, 1), epsilon not positive, or an axis not one of the inputs'.
    """
    if not 0 <= momentum < 1 or epsilon <= 0:
        raise ConfigError(f"BatchNorm expects 0 <= momentum < 1 and epsilon > 0, found {momentum} and {epsilon}.")

    def axes_of(rank: int) -> tuple[int, ...]:
        axes = tuple(range(rank - 1)) if axis is None else axis
        if 0 not in axes or not set(axes) <= set(range(rank)):
            raise ConfigError(f"BatchNorm expects axes from 0 to {rank - 1}, with 0 among them, found {axes}.")
        return axes

    def init(key: Array, in_shape: Shape) -> tuple[Shape, Affine, Averages]:
        axes = axes_of(len(in_shape))
        features = tuple(size for i, size in enumerate(in_shape) if i not in axes)
        affine = Affine(jnp.zeros(features) if center else (), jnp.ones(features) if scale else ())
        # Two arrays: a step that overwrites its state takes no buffer twice.
        return in_shape, affine, Averages(jnp.zeros(features), jnp.ones(features), jnp.zeros([]))

    def apply(
        params: Affine, state: Averages, inputs: Array, *, key: Array | None = None, train: bool = False
    ) -> tuple[Array, Averages]:
        axes = axes_of(inputs.ndim)
        values = inputs.astype(state.mean.dtype)  # moments of bfloat16 values need the sums of float32
        moments = batch_moments(values, axes) if train else Moments(state.mean, state.variance)
        mean, variance, beta, gamma = jax.tree.map(
            lambda x: jnp.expand_dims(x, axes).astype(values.dtype), (*moments, *params)
        )
        values = (values - mean) * lax.rsqrt(variance + epsilon)
        values = values * gamma if scale else values
        values = values + beta if center else values
        if train:
            state = _averaged(state, moments, momentum)
        return values.astype(inputs.dtype), state

    return Model(init, apply)


def _averaged(state: Averages, moments: Moments, momentum: float) -> Averages:
    """Add a batch to the averages. The share that it takes is 1 at first, and 1 - momentum in the end."""
    weight = momentum * state.weight + (1 - momentum)
    share = (1 - momentum) / weight
    mean, variance = (old + share * (new - old) for old, new in zip((state.mean, state.variance), moments, strict=True))
    return Averages(mean, variance, weight)
