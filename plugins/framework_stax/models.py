"""Models for classification, and stacks given as a list of layers."""

from __future__ import annotations

from collections.abc import Sequence

from jax.example_libraries import stax

from framework.api import Fraction, Model, Size
from framework.errors import ConfigError
from framework_stax import stack
from framework_stax.activations import activation_layer
from framework_stax.branches import Flatten
from framework_stax.layers import Conv, Dense, Dropout, MaxPool


def mlp(
    hidden: tuple[Size, ...] = (512,), classes: Size = 10, activation: str = "relu", dropout: Fraction = 0.0
) -> Model:
    """Multilayer perceptron on flattened inputs: [B, ...] to logits [B, classes]. Nested inputs are joined.

    Args:
      hidden: width of each hidden layer.
      classes: number of logits.
      activation: function after each hidden layer, a name of `jax.nn`.
      dropout: share of each hidden layer's values that is dropped in training, in [0, 1).

    Raises: ConfigError if `jax.nn` has no such activation, or dropout is not in [0, 1).
    """
    # Dropout stays at rate 0, so that parameters have the same paths at every rate.
    blocks = [[Dense(width), activation_layer(activation), Dropout(dropout)] for width in hidden]
    return stack.serial(Flatten(), *(layer for block in blocks for layer in block), Dense(classes))


def cnn(
    channels: tuple[Size, ...] = (16, 32),
    kernel: Size = 5,
    hidden: Size = 128,
    classes: Size = 10,
    dropout: Fraction = 0.0,
) -> Model:
    """Convolutional network like LeNet: images [B, H, W, C] to logits [B, classes].

    Each number of channels makes a convolution, a 2×2 maximum pool and a relu. Two dense layers follow. Relu after the
    pool is the same function as before it, on a quarter of the values. Source: LeCun et al. 1998, "Gradient-based
    learning applied to document recognition".

    Args:
      channels: output channels of each convolution.
      kernel: height and width of the kernels, which stay inside the image.
      hidden: width of the hidden dense layer.
      classes: number of logits.
      dropout: share of the hidden dense layer's values that is dropped in training, in [0, 1).

    Raises: ConfigError if dropout is not in [0, 1), or, in `init`, if an image is smaller than a kernel or a pool.
    """
    blocks = [[Conv(width, (kernel, kernel)), MaxPool((2, 2)), stax.Relu] for width in channels]
    head = [stax.Flatten, Dense(hidden), stax.Relu, Dropout(dropout), Dense(classes)]
    return stack.serial(*(layer for block in blocks for layer in block), *head)


def logistic_regression(classes: Size = 10) -> Model:
    """Linear map of flattened inputs: [B, ...] to logits [B, classes].

    Args:
      classes: number of logits.
    """
    return stack.serial(stax.Flatten, Dense(classes))


def serial(layers: Sequence[Model]) -> Model:
    """Stack of layers by name, one after the other.

    Args:
      layers: list such as `[{Conv: {out_chan: 16, filter_shape: [5, 5]}}, Relu, Flatten, {Dense: 10}]`.

    Raises: ConfigError if the list is empty.
    """
    if not layers:
        raise ConfigError("model 'serial' was given no layers; list one at least.")
    return stack.serial(*layers)
