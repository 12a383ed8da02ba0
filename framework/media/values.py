"""Media that callbacks and tasks show: images, histograms, texts, tables, curves, embeddings and sounds, as values.

Each type has `of(value)`, which makes one from arrays or checks one, and `files()`, the bytes of its files by ending.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from framework.media.encodings import PNG_COLOURS, delimited, png, wav

GRID_LINE = 128
"""Grey of the lines between the images of a grid."""

BINS = 30
"""Bins of a histogram: as many as TensorBoard draws."""

THRESHOLDS = 127
"""Points of a precision-recall curve: TensorBoard's own number."""


class Image(NamedTuple):
    """A picture.

    Attributes:
      pixels: uint8 [H, W, C], with C = 1 (grey), 3 (RGB) or 4 (RGB and opacity).
    """

    pixels: np.ndarray

    @classmethod
    def of(cls, value: Any) -> Image:
        """Make a picture from [H, W, C] or, in grey, [H, W]; or a square grid of several from [N, H, W, C].

        Args:
          value: an image, or pixels: uint8 from 0 to 255, or real numbers from 0 to 1. Numbers beyond that are clipped,
            and NaN is black, so that outputs of a model can be shown as they are.

        Raises: ValueError for other shapes or dtypes.
        """
        pixels = np.asarray(value.pixels if isinstance(value, Image) else value)
        pixels = _as_bytes(pixels[..., None] if pixels.ndim == 2 else pixels)
        return cls(pixels if pixels.ndim == 3 else _grid(pixels))

    def png(self) -> bytes:
        """Encode it as PNG."""
        return png(self.pixels)

    def files(self) -> Mapping[str, bytes]:
        """Return a PNG file."""
        return {"png": self.png()}


class Histogram(NamedTuple):
    """Counts of values in bins. Values that are not finite are counted apart.

    Attributes:
      edges: float64 [K + 1], ascending.
      counts: int64 or float64 [K].
      nan: number of values that are NaN.
      infinite: number of values that are infinite.
    """

    edges: np.ndarray
    counts: np.ndarray
    nan: int = 0
    infinite: int = 0

    @classmethod
    def of(cls, value: Any) -> Histogram:
        """Bin real numbers of any shape, or check a histogram.

        Raises: ValueError if values are no real numbers, or a histogram's edges and counts do not fit.
        """
        if isinstance(value, Histogram):
            edges, counts = np.asarray(value.edges, np.float64), np.asarray(value.counts)
            if edges.ndim != 1 or counts.shape != (len(edges) - 1,) or not (np.diff(edges) >= 0).all():
                text = f"edges are {_shown(edges)} and counts {_shown(counts)}"
                raise ValueError(f"{text}, expected ascending [K + 1] and [K]")
            return value._replace(edges=edges, counts=counts)
        values = np.asarray(value)
        if not _is_real(values):
            raise ValueError(f"values are {_shown(values)}, expected real numbers")
        values = values.astype(np.float64).reshape(-1)
        finite = values[np.isfinite(values)]
        # The width of a bin must not overflow.
        counts, edges = np.histogram(np.clip(finite, -1e300, 1e300), BINS)
        nan = int(np.isnan(values).sum())
        return cls(edges, counts, nan, len(values) - len(finite) - nan)

    def files(self) -> Mapping[str, bytes]:
        """Return a JSON file."""
        numbers = {"nan": self.nan, "infinite": self.infinite}
        return {"json": _json({**numbers, "edges": self.edges.tolist(), "counts": self.counts.tolist()})}


class Text(NamedTuple):
    """A text, which a viewer may render as Markdown."""

    text: str

    @classmethod
    def of(cls, value: Any) -> Text:
        """Take a text. Raises: ValueError for anything else."""
        text = value.text if isinstance(value, Text) else value
        if not isinstance(text, str):
            raise ValueError(f"the text is {type(text).__name__}, expected str")
        return cls(text)

    def files(self) -> Mapping[str, bytes]:
        """Return a text file in UTF-8."""
        return {"txt": self.text.encode(errors="replace")}


class Table(NamedTuple):
    """Rows of cells under named columns; a cell is a text, a number, or None."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]

    @classmethod
    def of(cls, value: Any) -> Table:
        """Check a table, or make one.

        Args:
          value: a table; columns {name: [N]}; or rows, each a mapping {column: cell}, of which some may lack columns.

        Raises: ValueError for anything else, or for a row with other than one cell for each column.
        """
        if isinstance(value, Mapping):
            if len({len(column) for column in value.values()}) > 1:
                lengths = {name: len(column) for name, column in value.items()}
                raise ValueError(f"columns have the lengths {lengths}, expected the same")
            value = cls(list(value), list(zip(*value.values(), strict=True)))
        if not isinstance(value, Table):
            rows: list[Any] = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
            if not all(isinstance(row, Mapping) for row in rows):
                raise ValueError(f"the table is {_shown(value)}, expected Table(columns, rows) or a list of mappings")
            columns = list(dict.fromkeys(column for row in rows for column in row))
            value = cls(columns, [[row.get(column) for column in columns] for row in rows])
        for number, row in enumerate(value.rows):
            if len(row) != len(value.columns):
                raise ValueError(f"row {number} has {len(row)} cells, expected one for each of {len(value.columns)}")
        return cls([str(column) for column in value.columns], [[_cell(cell) for cell in row] for row in value.rows])

    def files(self) -> Mapping[str, bytes]:
        """Return a CSV file with the columns' names in its first line."""
        return {"csv": delimited([self.columns, *self.rows])}

    def markdown(self) -> str:
        """Format it as a table in Markdown."""
        cells = [self.columns, ["---"] * len(self.columns), *self.rows]
        lines = [[_markdown(cell) for cell in row] for row in cells]
        return "\n".join(f"| {' | '.join(row)} |" for row in lines)


class PRCurve(NamedTuple):
    """Precision and recall of a yes/no decision at several thresholds.

    Attributes:
      thresholds: float64 [K], ascending from 0 to 1; a score of at least the threshold is a yes.
      true_positives, false_positives, true_negatives, false_negatives: float64 [K], summed weights.
    """

    thresholds: np.ndarray
    true_positives: np.ndarray
    false_positives: np.ndarray
    true_negatives: np.ndarray
    false_negatives: np.ndarray

    @classmethod
    def of(cls, value: Any) -> PRCurve:
        """Make a curve from (labels, scores) or (labels, scores, weights), each [N], or check one.

        Args:
          value: labels are 0 or 1, scores real numbers from 0 to 1, weights 1 by default.

        Raises: ValueError for other shapes, or for scores beyond 0 to 1.
        """
        if isinstance(value, PRCurve):
            columns = [np.asarray(column, np.float64) for column in value]
            if any(column.shape != columns[0].shape or column.ndim != 1 for column in columns):
                raise ValueError(f"the curve has columns {', '.join(map(_shown, columns))}, expected [K] each")
            return cls(*columns)
        if not isinstance(value, tuple | list) or len(value) not in (2, 3):
            raise ValueError(f"the curve is {_shown(value)}, expected (labels, scores) or (labels, scores, weights)")
        labels, scores = (np.asarray(column, np.float64) for column in value[:2])
        weights = np.ones_like(scores) if len(value) == 2 else np.asarray(value[2], np.float64)
        if labels.ndim != 1 or not labels.shape == scores.shape == weights.shape:
            listed = f"labels {_shown(labels)}, scores {_shown(scores)}, weights {_shown(weights)}"
            raise ValueError(f"the curve has {listed}, expected [N] each")
        if not np.isin(labels, (0, 1)).all() or not ((scores >= 0) & (scores <= 1)).all():
            raise ValueError("the curve has labels other than 0 and 1, or scores beyond 0 to 1")
        return cls(*_decisions(labels, scores, weights))

    @property
    def precision(self) -> np.ndarray:
        """Share of the yeses that are right, float64 [K]; 0 where there is none."""
        return self.true_positives / np.maximum(self.true_positives + self.false_positives, 1e-12)

    @property
    def recall(self) -> np.ndarray:
        """Share of the positives that are found, float64 [K]; 0 where there is none."""
        return self.true_positives / np.maximum(self.true_positives + self.false_negatives, 1e-12)

    def files(self) -> Mapping[str, bytes]:
        """Return a CSV file with a line for each threshold."""
        columns = [*self._fields, "precision", "recall"]
        return {"csv": delimited([columns, *zip(*self, self.precision, self.recall, strict=True)])}


class Embedding(NamedTuple):
    """Points in a space of many dimensions.

    Attributes:
      vectors: float [N, D].
      labels: a word for each, [N]; None for none.
      sprites: a picture for each, pixels [N, H, W, C] as `Image.of` takes them, and uint8 once checked; None for none.
    """

    vectors: np.ndarray
    labels: Sequence[Any] | None = None
    sprites: np.ndarray | None = None

    @classmethod
    def of(cls, value: Any) -> Embedding:
        """Check an embedding, or take vectors [N, D].

        Raises: ValueError for other shapes, or other numbers of labels or sprites than vectors.
        """
        given = value if isinstance(value, Embedding) else cls(value)
        vectors = np.asarray(given.vectors)
        if vectors.ndim != 2 or not vectors.size or not _is_real(vectors):
            raise ValueError(f"vectors are {_shown(vectors)}, expected real numbers [N, D]")
        labels = None if given.labels is None else [_cell(label) for label in np.asarray(given.labels).tolist()]
        sprites = None if given.sprites is None else np.asarray(given.sprites)
        if sprites is not None:
            sprites = _as_bytes(sprites[..., None] if sprites.ndim == 3 else sprites)
        for name, column in (("labels", labels), ("sprites", sprites)):
            if column is not None and len(column) != len(vectors):
                raise ValueError(f"{name} are {len(column)}, expected one for each of {len(vectors)} vectors")
        return cls(vectors.astype(np.float32), labels, sprites)

    def sheet(self) -> Image | None:
        """Lay the sprites out as one square picture, row by row, without lines between them; None without sprites."""
        return None if self.sprites is None else Image(_grid(self.sprites, line=0, is_square=True))

    def files(self) -> Mapping[str, bytes]:
        """Return TSV files of vectors and labels, and a PNG file of the sprites."""
        line = "\t".join(["%.7g"] * self.vectors.shape[1]) + "\n"  # a fourth of the time of `delimited`
        files = {"tsv": "".join(line % tuple(vector) for vector in self.vectors.tolist()).encode()}
        if self.labels is not None:
            # The projector of TensorBoard splits at each tab and each line end, in quotes or not.
            words = [str(label).translate({9: " ", 10: " ", 13: " "}) for label in self.labels]
            files["labels.tsv"] = "".join(f"{word}\n" for word in words).encode()
        sheet = self.sheet()
        return files if sheet is None else {**files, "sprites.png": sheet.png()}


class Audio(NamedTuple):
    """A sound.

    Attributes:
      samples: int16 [T, C], with C channels.
      rate: samples a second.
    """

    samples: np.ndarray
    rate: int

    @classmethod
    def of(cls, value: Any) -> Audio:
        """Make a sound from (samples, rate), or check one.

        Args:
          value: samples are [T] or [T, C], int16 or real numbers from -1 to 1, which are clipped; NaN is silence.

        Raises: ValueError for other shapes, dtypes or rates.
        """
        if not isinstance(value, tuple | list) or len(value) != 2:
            raise ValueError(f"the sound is {_shown(value)}, expected Audio(samples, rate)")
        samples, rate = np.asarray(value[0]), value[1]
        if isinstance(rate, bool) or not isinstance(rate, int | np.integer) or not 1 <= rate < 2**31:
            raise ValueError(f"the rate is {rate!r}, expected a whole number of samples a second")
        samples = samples[:, None] if samples.ndim == 1 else samples
        if samples.ndim != 2 or not samples.size or samples.shape[1] > 64:
            raise ValueError(f"samples are {_shown(samples)}, expected [T] or [T, C]")
        if samples.dtype != np.int16:
            if samples.dtype.kind in "iuc" or not _is_real(samples):
                raise ValueError(f"samples are {_shown(samples)}, expected int16, or real numbers from -1 to 1")
            clipped = np.clip(np.nan_to_num(samples.astype(np.float32), nan=0.0), -1, 1)
            samples = np.round(clipped * 32767).astype(np.int16)
        return cls(samples, int(rate))

    def wav(self) -> bytes:
        """Encode it as WAV."""
        return wav(self.samples, self.rate)

    def files(self) -> Mapping[str, bytes]:
        """Return a WAV file."""
        return {"wav": self.wav()}


MEDIA = {
    "image": Image,
    "histogram": Histogram,
    "text": Text,
    "table": Table,
    "pr_curve": PRCurve,
    "embedding": Embedding,
    "audio": Audio,
}
"""The types by their names in words."""

Medium: TypeAlias = Image | Histogram | Text | Table | PRCurve | Embedding | Audio


class Figure(NamedTuple):
    """A figure of matplotlib, which becomes an image."""

    figure: Any

    @classmethod
    def of(cls, value: Any) -> Image:
        """Draw a `matplotlib.figure.Figure`, at its own size and resolution.

        Raises: ValueError for anything else.
        """
        figure = value.figure if isinstance(value, Figure) else value
        try:
            from matplotlib.backends.backend_agg import FigureCanvasAgg
            from matplotlib.figure import Figure as Drawn
        except ImportError as error:
            raise ValueError("matplotlib is not installed, which draws figures") from error
        if not isinstance(figure, Drawn):
            raise ValueError(f"the figure is {type(figure).__name__}, expected matplotlib.figure.Figure")
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        return Image.of(np.asarray(canvas.buffer_rgba())[..., :3])


def _as_bytes(pixels: np.ndarray) -> np.ndarray:
    """Return pixels [H, W, C] or [N, H, W, C] as uint8. Raises: ValueError for other shapes or dtypes."""
    if pixels.ndim not in (3, 4) or pixels.shape[-1] not in PNG_COLOURS or not pixels.size:
        raise ValueError(f"pixels are {_shown(pixels)}, expected [H, W, C] or [N, H, W, C] with 1, 3 or 4 channels")
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype.kind in "iuc" or not _is_real(pixels):
        raise ValueError(f"pixels are {_shown(pixels)}, expected uint8, or real numbers from 0 to 1")
    clipped = np.clip(np.nan_to_num(pixels.astype(np.float32), nan=0.0), 0, 1)
    return np.round(clipped * 255).astype(np.uint8)


def _grid(images: np.ndarray, line: int = 1, is_square: bool = False) -> np.ndarray:
    """Lay images [N, H, W, C] out in rows, as nearly square as can be, with grey lines between them.

    Args:
      line: width of the lines, in pixels.
      is_square: take as many rows as columns, even if the last ones stay empty.
    """
    count, height, width, channels = images.shape
    columns = math.ceil(math.sqrt(count))
    rows = columns if is_square else math.ceil(count / columns)
    sheet = np.full((rows, height + line, columns, width + line, channels), GRID_LINE, np.uint8)
    for place, pixels in enumerate(images):
        sheet[place // columns, :height, place % columns, :width] = pixels
    sheet = sheet.reshape(rows * (height + line), columns * (width + line), channels)
    return sheet[: len(sheet) - line, : sheet.shape[1] - line]


def _decisions(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, ...]:
    """Count decisions by threshold: the columns of a `PRCurve`, float64 [K]."""
    thresholds = np.linspace(0, 1, THRESHOLDS)
    reached = np.searchsorted(thresholds, scores, side="right")  # number of thresholds that a score has reached

    def at_least(weights: np.ndarray) -> np.ndarray:
        sums = np.bincount(reached, weights, THRESHOLDS + 1)
        return sums[::-1].cumsum()[::-1][1:]

    positives, negatives = weights * labels, weights * (1 - labels)
    yes, no = at_least(positives), at_least(negatives)
    return thresholds, yes, no, negatives.sum() - no, positives.sum() - yes


def _is_real(values: np.ndarray) -> bool:
    """Tell whether an array holds real numbers, integers or booleans; those of JAX, such as bfloat16, count."""
    return values.dtype.kind in "biuf" or (values.dtype.kind == "V" and np.can_cast(values.dtype, np.float32))


def _cell(value: Any) -> str | int | float | None:
    """Turn a scalar of NumPy or JAX into a plain one. Raises: ValueError for an array of another size than 1."""
    if value is None or isinstance(value, str | int | float):
        return value
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in "biufU":
        raise ValueError(f"a cell is {_shown(value)}, expected a text, a number or None")
    return array.item()


def _markdown(cell: Any) -> str:
    text = "" if cell is None else f"{cell:.6g}" if isinstance(cell, float) else str(cell)
    return text.replace("|", "\\|").replace("\n", " ")


def _json(value: Any) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _shown(value: Any) -> str:
    """Name an array by dtype and shape, and anything else by its type."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{value.dtype}{list(value.shape)}"
    return type(value).__name__
