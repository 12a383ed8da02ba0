"""Media as values of events, for the tabs IMAGES, HISTOGRAMS, DISTRIBUTIONS, TEXT, PR CURVES and AUDIO."""

# The modules of protocol buffers make their classes when imported, out of pyright's sight.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from functools import singledispatch

import numpy as np
from tensorboard.compat.proto.summary_pb2 import DATA_CLASS_BLOB_SEQUENCE, DATA_CLASS_TENSOR, Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.types_pb2 import DT_DOUBLE, DT_FLOAT, DT_STRING
from tensorboard.plugins.audio.plugin_data_pb2 import AudioPluginData
from tensorboard.plugins.histogram.plugin_data_pb2 import HistogramPluginData
from tensorboard.plugins.image.plugin_data_pb2 import ImagePluginData
from tensorboard.plugins.pr_curve.plugin_data_pb2 import PrCurvePluginData

from framework.api import Audio, Histogram, Image, Medium, PRCurve, Table, Text
from framework_tensorboard.events import Value, scalar, text


@singledispatch
def values_of(medium: Medium, tag: str) -> list[Value]:
    """Return a medium as the values of an event; none of a medium that no event holds."""
    return []


@values_of.register
def _(medium: Image, tag: str) -> list[Value]:
    height, width = medium.pixels.shape[:2]
    content = [str(width).encode(), str(height).encode(), medium.png()]
    return [_blobs(tag, "images", ImagePluginData(), content, (3,))]


@values_of.register
def _(medium: Histogram, tag: str) -> list[Value]:
    edges = medium.edges
    bins = np.stack([edges[:-1], edges[1:], medium.counts.astype(np.float64)], axis=1)
    tensor = TensorProto(dtype=DT_DOUBLE, tensor_content=bins.astype("<f8").tobytes())
    values = [_value(tag, "histograms", HistogramPluginData(), DATA_CLASS_TENSOR, _shaped(tensor, bins.shape))]
    lost = medium.nan + medium.infinite  # which have no place in a bin
    return [*values, scalar(f"{tag}/not_finite", lost)] if lost else values


@values_of.register
def _(medium: Text, tag: str) -> list[Value]:
    return [text(tag, medium.text)]


@values_of.register
def _(medium: Table, tag: str) -> list[Value]:
    return [text(tag, medium.markdown())]


@values_of.register
def _(medium: PRCurve, tag: str) -> list[Value]:
    counts = [medium.true_positives, medium.false_positives, medium.true_negatives, medium.false_negatives]
    table = np.stack([*counts, medium.precision, medium.recall])
    tensor = TensorProto(dtype=DT_FLOAT, tensor_content=table.astype("<f4").tobytes())
    data = PrCurvePluginData(num_thresholds=table.shape[1])
    return [_value(tag, "pr_curves", data, DATA_CLASS_TENSOR, _shaped(tensor, table.shape))]


@values_of.register
def _(medium: Audio, tag: str) -> list[Value]:
    return [_blobs(tag, "audio", AudioPluginData(encoding=AudioPluginData.WAV), [medium.wav(), b""], (1, 2))]


def _blobs(tag: str, plugin: str, data: Value, content: list[bytes], shape: tuple[int, ...]) -> Value:
    tensor = _shaped(TensorProto(dtype=DT_STRING, string_val=content), shape)
    return _value(tag, plugin, data, DATA_CLASS_BLOB_SEQUENCE, tensor)


def _value(tag: str, plugin: str, data: Value, kind: int, tensor: TensorProto) -> Value:
    plugin_data = SummaryMetadata.PluginData(plugin_name=plugin, content=data.SerializeToString())
    metadata = SummaryMetadata(plugin_data=plugin_data, data_class=kind)
    return Summary.Value(tag=tag, metadata=metadata, tensor=tensor)


def _shaped(tensor: TensorProto, shape: tuple[int, ...]) -> TensorProto:
    for size in shape:
        tensor.tensor_shape.dim.add(size=size)
    return tensor
