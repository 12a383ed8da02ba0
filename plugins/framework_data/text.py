"""Text, character by character, as windows; the target of each position is the character that follows."""

from __future__ import annotations

import copy
import gzip
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from framework.api import Batch, DataPipeline, Share, Where, fingerprint_of
from framework.errors import ConfigError, DataError, nearest
from framework_data.pipeline import ALL, padded

UNKNOWN = "\N{REPLACEMENT CHARACTER}"
SHIPPED = "400,000 characters of Shakespeare's plays that ship with the package (public domain)"


def text(
    path: str | None = None,
    block: int = 64,
    batch_size: int = 12,
    eval_batch_size: int = 64,
    validation: float = 0.1,
    vocabulary: int = 128,
    characters: str | None = None,
) -> TextPipeline:
    """Text for a language model: inputs and targets are int32 [B, block], targets one character ahead.

    A training batch holds windows from random places, drawn from (seed, step). The split "validation" is the end of the
    text, in windows side by side. Integer 0 stands for all characters outside the vocabulary. The others stand for the
    characters of the training part, in the order of their code points. The run's record keeps them as
    `facts.characters`: integer i stands for `framework.load(RUN).facts["characters"][i]`.

    Args:
      path: UTF-8 file; null takes an excerpt of Shakespeare's plays that ships with the package.
      block: characters in a window.
      batch_size: windows in a step.
      eval_batch_size: windows in an evaluation batch.
      validation: share of the text, at its end, that is not trained on.
      vocabulary: number of integers; of a text with more characters, the most frequent ones get one. The model must
        have the same number.
      characters: a text whose character i is that of integer i, the first one for all others, such as the
        `facts.characters` of a trained model; null takes those of the training part. `init_from` and `framework
        evaluate` take those of the run.

    Raises: ConfigError if a number is out of range; DataError if the file cannot be read or is too short.
    """
    for name, value in {"block": block, "batch_size": batch_size, "eval_batch_size": eval_batch_size}.items():
        if value < 1:
            raise ConfigError(f"{name} is {value}, expected at least 1.")
    if not 0 < validation < 1:
        raise ConfigError(f"validation is {validation}, expected a share between 0 and 1.")
    if not 2 <= vocabulary <= 2**16:
        raise ConfigError(f"vocabulary is {vocabulary}, expected 2 to 65536.")
    content, source = read(path)
    cut = len(content) - round(len(content) * validation)
    parts = {"training": content[:cut], "validation": content[cut:]}
    for name, part in parts.items():
        if len(part) <= block:
            raise DataError(
                f"{source}: its {name} part has {len(part)} characters, expected more than block, {block}. "
                "Take a longer text, a smaller data.block, or another data.validation."
            )
    if characters is None:
        characters = characters_of(parts["training"], vocabulary)
    elif not 2 <= len(characters) <= vocabulary or sorted(set(characters[1:])) != list(characters[1:]):
        text = f"expected 2 to {vocabulary} characters, from the second on in ascending order, found {characters!r:.40}"
        raise ConfigError(f"{text}.", key="characters")
    train, held = (encode(part, characters) for part in parts.values())
    return TextPipeline(train, held, block, (batch_size, eval_batch_size), characters, source)


class TextPipeline(DataPipeline):
    """Pipeline of windows of a text.

    Attributes:
      spec: a training batch with `jax.ShapeDtypeStruct` leaves [B, block].
      steps_per_epoch: batches that hold as many characters as the training part.
      splits: "validation" alone.
      source: origin of the text, in words.
      facts: "characters", a text whose character i is that of integer i, which is learnt, and the preprocessor.
    """

    def __init__(
        self, train: np.ndarray, held: np.ndarray, block: int, sizes: tuple[int, int], characters: str, source: str
    ) -> None:
        """Take both parts of the text as integers [N], N above block, and the batch sizes of both."""
        self._batch_size, self._eval_batch_size = sizes
        self._share, self._block = ALL, block
        leaf = jax.ShapeDtypeStruct((self._batch_size, block), np.int32)
        self.spec: Batch = {"inputs": leaf, "targets": leaf}
        self.steps_per_epoch = max(1, len(train) // (self._batch_size * block))
        self.splits = ("validation",)
        self.source = f"{source}, {len(characters) - 1} different characters"
        recipe = {"name": "characters", "characters": characters}
        self.facts: Mapping[str, Any] = {"characters": characters, "preprocess": recipe, "learnt": ["characters"]}
        self._parts, self._alphabet = {"train": {"codes": train}, "validation": {"codes": held}}, characters
        # Views: a window costs nothing before it is taken.
        self._windows = np.lib.stride_tricks.sliding_window_view(train, block + 1)
        self._held = np.lib.stride_tricks.sliding_window_view(held, block + 1)[::block]

    def train(self, seed: int, start: int = 0) -> Iterator[Batch]:
        """Yield batches start, start + 1, … without end."""
        for step in itertools.count(start):
            # NumPy's seeds must not be negative, JAX's may be.
            random = np.random.default_rng([seed % 2**64, step])
            places = random.integers(len(self._windows), size=self._batch_size)
            yield _batch(self._windows[places[self._share.rows(self._batch_size)]])

    def eval(self, split: str) -> Iterator[Batch]:
        """Yield every window of a split once, in order, with "weights" [B] of 1, and of 0 for padding."""
        if split not in self.splits:
            raise ConfigError(f"there is no split '{split}' to evaluate.{nearest(split, self.splits)}")
        return padded(_batch(self._held), self._eval_batch_size, self._share)

    def fingerprint(self) -> Mapping[str, Mapping[str, Any]]:
        """Describe each part of the text by its integers and what they stand for."""
        return {name: {**fingerprint_of(part), "characters": self._alphabet} for name, part in self._parts.items()}

    def examples(self) -> Iterator[tuple[str, Batch, Where]]:
        """Yield each part's name and all of its characters once, in windows that lie side by side, as views."""
        for name, windows in (("train", self._windows[:: self._block]), ("validation", self._held)):
            batch = {"inputs": windows[:, :-1], "targets": windows[:, 1:]}
            yield name, batch, lambda row: f"characters {row * self._block} to {(row + 1) * self._block}"

    def restricted(self, share: Share) -> TextPipeline:
        """Return a pipeline of the same batches that makes only the windows of one process."""
        part = copy.copy(self)
        part._share = share
        return part


def characters(characters: str) -> Callable[[str | Sequence[str]], np.ndarray]:
    """Turn texts of one length, [B], or a single text, into the integers of their characters: int32 [B, length].

    As in training, a character outside the vocabulary becomes 0; lines must end in "\\n", as they do there.

    Args:
      characters: the vocabulary, a text whose character i is that of integer i.

    Raises: ConfigError, when called, for anything but texts of one length.
    """

    def preprocess(raw: str | Sequence[str]) -> np.ndarray:
        texts = [raw] if isinstance(raw, str) else list(raw)
        if not texts or not all(isinstance(each, str) for each in texts):
            found = sorted({type(each).__name__ for each in texts})
            raise ConfigError(f"expected a text or several, found {', '.join(found) or 'none'}.")
        if len(lengths := {len(each) for each in texts}) > 1:
            raise ConfigError(f"expected texts of one length, found {min(lengths)} to {max(lengths)} characters.")
        return np.stack([encode(each, characters) for each in texts]).astype(np.int32)

    return preprocess


def read(path: str | None) -> tuple[str, str]:
    """Read a text and its origin in words; line ends become "\\n", and a byte order mark is dropped.

    Raises: DataError if the file cannot be read, is not UTF-8, or is empty.
    """
    if path is None:
        packed = Path(__file__).with_name("shakespeare.txt.gz").read_bytes()
        return gzip.decompress(packed).decode(), SHIPPED
    place = Path(path).expanduser()
    if place.is_fifo():  # to open it waits for its writer
        raise DataError(f"{place} is a pipe, expected a file.")
    try:
        content = place.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{place}: byte {error.start} is not UTF-8. Convert it: iconv -t UTF-8.") from error
    except OSError as error:
        raise DataError(f"{place} cannot be read: {error.strerror}; seen from {Path.cwd()}.") from error
    if not content:
        raise DataError(f"{place} is empty, expected a text.")
    return content, str(place)


def characters_of(content: str, vocabulary: int) -> str:
    """Return the unknown character, then those that get an integer, at most `vocabulary` in all.

    If there are more, the rarest get none; of equally frequent ones, those with later code points.
    """
    counts = Counter(content)
    counts.pop(UNKNOWN, None)
    ranked = sorted(counts, key=lambda character: (-counts[character], character))
    return "".join([UNKNOWN, *sorted(ranked[: vocabulary - 1])])


def encode(content: str, characters: str) -> np.ndarray:
    """Map each character to its place in `characters`, uint16 [N]; 0 for a character that is not among them."""
    points = np.frombuffer(content.encode("utf-32-le"), np.uint32)
    known = np.array([ord(character) for character in characters[1:]], np.uint32)  # in ascending order
    places = np.searchsorted(known, points).clip(max=len(known) - 1)
    return np.where(known[places] == points, places + 1, 0).astype(np.uint16)


def _batch(windows: np.ndarray) -> Batch:
    """Split windows [B, block + 1] into inputs and targets, int32 [B, block]."""
    windows = windows.astype(np.int32)
    return {
        name: np.ascontiguousarray(part) for name, part in (("inputs", windows[:, :-1]), ("targets", windows[:, 1:]))
    }
