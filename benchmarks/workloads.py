"""Workloads: each network once as a description that every library builds, once as the framework's config."""

from __future__ import annotations

from typing import NamedTuple

Description = tuple[tuple, ...]
"""Layers, such as `("Conv", 32, 3, "SAME")`; a pool is the maximum of 2×2, side by side."""

Marks = list[tuple[int, float]]
"""The result of a contender: (steps finished, `time.monotonic()`), which all processes of a machine share."""


class Workload(NamedTuple):
    """One network on MNIST, or on images of its shape, with Adam; or the character GPT on a text.

    Attributes:
      about: what it is, for the table.
      layers: for hand-written loops and peers, in the order in which one usually writes them; none for the GPT.
      model: overrides that make the framework build the same function, and train it in the same way.
      steps: how many are timed; some seconds' worth.
      scan: whether the framework's layers run well in a compiled loop; stock convolutions are 10 times slower there.
      batch_size: examples in a step.
      peers: those that have it, where they are installed.
    """

    about: str
    layers: Description
    model: tuple[str, ...]
    steps: int
    scan: bool
    batch_size: int = 128
    peers: tuple[str, ...] = ("torch", "lightning", "keras", "flax")

    @property
    def is_text(self) -> bool:
        """Tell whether it is the GPT, which `benchmarks.gpt` trains."""
        return not self.layers


class Plan(NamedTuple):
    """The length of one trial."""

    steps: int  # timed
    warmup: int  # before those; compiles
    window: int  # steps between two readings of the metrics
    synthetic: int  # examples made up on the spot; 0 for MNIST
    batch_size: int = 128
    learning_rate: float = 1e-3

    @property
    def epoch(self) -> int:
        """Steps of an epoch, for contenders that only go by epochs."""
        return min(self.steps, 468)


class Gpt(NamedTuple):
    """The sizes of the character GPT: what nanoGPT sets for a CPU, and one integer for unknown characters."""

    layers: int = 4
    heads: int = 4
    width: int = 128
    block: int = 64
    vocabulary: int = 66


GPT = Gpt()

SHAPE = (28, 28, 1)
CLASSES = 10

_HEAD = ("Dense", CLASSES)


def _mlp(*widths: int) -> Description:
    blocks = [(("Dense", width), ("Relu",)) for width in widths]
    return (("Flatten",), *(layer for block in blocks for layer in block), _HEAD)


def _cnn(channels: tuple[int, ...], size: int, padding: str, hidden: int) -> Description:
    blocks = [(("Conv", width, size, padding), ("Relu",), ("MaxPool",)) for width in channels]
    return (*(layer for block in blocks for layer in block), ("Flatten",), ("Dense", hidden), ("Relu",), _HEAD)


def _conv(channels: int) -> str:
    return f"{{Conv: {{out_chan: {channels}, filter_shape: [3, 3], padding: SAME}}}}, MaxPool, Relu"


_GPT = (
    "model=transformer",
    *(f"model.{name}={getattr(GPT, name)}" for name in ("layers", "heads", "width")),
    *(f"data.{name}={getattr(GPT, name)}" for name in ("block", "vocabulary")),
    "optimizer=chain",
    "optimizer.transforms=[{clip_by_global_norm: {max_norm: 1.0}}, "
    "{adamw: {b2: 0.99, weight_decay: 0.1, mask: '*/W'}}]",
)

WORKLOADS = {
    "w1": Workload("MLP 784-1024-1024-10", _mlp(1024, 1024), ("model=mlp", "model.hidden=[1024,1024]"), 400, True),
    "w2": Workload(
        "CNN 32-64, 3×3 SAME, Dense 256",
        _cnn((32, 64), 3, "SAME", 256),
        ("model=serial", f"model.layers=[{_conv(32)}, {_conv(64)}, Flatten, {{Dense: 256}}, Relu, {{Dense: 10}}]"),
        100,
        True,
    ),
    "w3": Workload("MLP 784-64-10", _mlp(64), ("model=mlp", "model.hidden=[64]"), 8000, True),
    "lenet": Workload("CNN 16-32, 5×5, Dense 128", _cnn((16, 32), 5, "VALID", 128), ("model=cnn",), 200, True),
    "w4": Workload("GPT of 4 layers, 128 wide, block 64, batch 12", (), _GPT, 200, True, 12, ("torch",)),
}
