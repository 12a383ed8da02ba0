"""TensorBoard event files written with TensorBoard's own protocol buffers, without TensorFlow.

The background thread of `EventFileWriter` is not used. The checksum is pure Python, so that a thread would compete with
the training loop for the interpreter; and that class loads TensorFlow if TensorFlow is installed.
"""

# The modules of protocol buffers make their classes when imported, out of pyright's sight.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import math
import os
import re
import socket
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tensorboard.compat.proto.config_pb2 import RunMetadata
from tensorboard.compat.proto.event_pb2 import Event, SessionLog, TaggedRunMetadata
from tensorboard.compat.proto.graph_pb2 import GraphDef
from tensorboard.compat.proto.step_stats_pb2 import DeviceStepStats, StepStats
from tensorboard.compat.proto.summary_pb2 import DATA_CLASS_SCALAR, DATA_CLASS_TENSOR, Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.types_pb2 import DT_FLOAT, DT_STRING
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2

from framework.errors import writing
from framework_inspect.flops import flops_of
from framework_tensorboard.records import framed, sound_records

if TYPE_CHECKING:
    from framework.api import Node

Value = Any
"""A `Summary.Value`; protocol buffers make their classes at run time, so that there is no type to name."""

PluginData = SummaryMetadata.PluginData
SCALAR = SummaryMetadata(plugin_data=PluginData(plugin_name="scalars"), data_class=DATA_CLASS_SCALAR)
TEXT = SummaryMetadata(plugin_data=PluginData(plugin_name="text"), data_class=DATA_CLASS_TENSOR)
LAYOUT = SummaryMetadata(plugin_data=PluginData(plugin_name="custom_scalars"), data_class=DATA_CLASS_TENSOR)

COSTS = "a batch: 1 ms is 1 MFlop"
"""Tag of the costs of a graph."""

SESSION = "_hparams_"
"""First part of the tags by which the HPARAMS tab knows the beginning and the end of a run."""


class EventFile:
    """An event file, `events.out.tfevents.<time>.<host>.<process>`, so named that names sort by time.

    Args:
      directory: is made if missing; TensorBoard takes each folder for one run.
    """

    def __init__(self, directory: Path) -> None:
        with writing(directory):
            directory.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time():017.6f}.{socket.gethostname()}.{os.getpid()}"
        self._path = directory / name
        with writing(self._path):
            self._file = self._path.open("xb")
        self.add_record(Event(wall_time=time.time(), file_version="brain.Event:2").SerializeToString())
        # A running TensorBoard then drops the points that it has read from earlier files of the run.
        start = Event(wall_time=time.time(), step=0, session_log=SessionLog(status=SessionLog.START))
        self.add_record(start.SerializeToString())

    def add_record(self, record: bytes) -> None:
        """Write one serialized event; it may wait in memory."""
        with writing(self._path):
            self._file.write(framed(record))

    def add(self, step: int, values: Iterable[Value]) -> None:
        """Write values of one step as one event, and hand everything written so far to the operating system."""
        values = list(values)
        event = Event(wall_time=time.time(), step=step, summary=Summary(value=values))
        if values:
            self.add_record(event.SerializeToString())
        with writing(self._path):
            self._file.flush()

    def close(self) -> None:
        """Flush and close; nothing can be written afterwards."""
        with writing(self._path):
            self._file.close()


def graph_record(nodes: Iterable[Node]) -> bytes:
    """Return the event of a graph for the GRAPHS tab, serialized; operations of one layer are one box there."""
    definition = GraphDef()
    for node in nodes:
        shown = definition.node.add(name=node.name, op=node.op, input=node.inputs)
        shape = shown.attr["_output_shapes"].list.shape.add()
        for size in node.shape:
            shape.dim.add(size=size)
        shown.attr["dtype"].s = node.dtype.encode()
    return Event(wall_time=time.time(), graph_def=definition.SerializeToString()).SerializeToString()


def cost_record(nodes: Iterable[Node]) -> bytes:
    """Return the event of what each operation of a graph costs, serialized; the tab adds up those of a layer.

    The tab knows memory and times alone: a millisecond stands for a million floating-point operations.
    """
    stats = DeviceStepStats(device="/device:XLA:0")
    for node in nodes:
        shown = stats.node_stats.add(node_name=node.name)
        shown.memory.add(total_bytes=_bytes(node))
        if node.equation is not None and (flops := flops_of(node.equation)) > 0:
            shown.all_start_micros, shown.all_end_rel_micros = 1, math.ceil(flops / 1000)  # no time begins at 0 there
    content = RunMetadata(step_stats=StepStats(dev_stats=[stats])).SerializeToString()
    return Event(
        wall_time=time.time(), tagged_run_metadata=TaggedRunMetadata(tag=COSTS, run_metadata=content)
    ).SerializeToString()


def _bytes(node: Node) -> int:
    bits = re.search(r"\d+", node.dtype)
    return math.prod(node.shape) * (int(bits[0]) // 8 if bits else 1)


def scalar(tag: str, number: float) -> Value:
    """Return a point of a curve, float32, which may be NaN or infinite."""
    return Summary.Value(tag=tag, metadata=SCALAR, tensor=TensorProto(dtype=DT_FLOAT, float_val=(number,)))


def text(tag: str, markdown: str) -> Value:
    """Return a text for the TEXT tab, which renders Markdown with tables and fenced code."""
    return _string(tag, TEXT, markdown.encode())


def layout(names: Iterable[str], bands: bool = False) -> Value:
    """Return charts for the CUSTOM SCALARS tab: for each name its train, eval and test curves together.

    Args:
      names: of metrics.
      bands: add charts of the mean over members or seeds between the lowest and the highest of them.
    """
    names = list(names)
    together = [
        layout_pb2.Chart(
            title=name,
            multiline=layout_pb2.MultilineChartContent(tag=[f"^(train|eval|test)/{re.escape(name)}$"]),
        )
        for name in names
    ]
    categories = [layout_pb2.Category(title="train, eval, test", chart=together)]
    if bands:
        margins = [_band(f"{split}/{name}") for name in names for split in ("train", "eval")]
        categories.append(layout_pb2.Category(title="mean, lowest to highest", chart=margins))
    content = layout_pb2.Layout(category=categories)
    return _string("custom_scalars__config__", LAYOUT, content.SerializeToString())


def _band(tag: str) -> Value:
    series = layout_pb2.MarginChartContent.Series(value=tag, lower=f"{tag}/lowest", upper=f"{tag}/highest")
    return layout_pb2.Chart(title=tag, margin=layout_pb2.MarginChartContent(series=[series]))


def session_start(hparams: Mapping[str, bool | float | str], group: str = "") -> Value:
    """Open the session of this run in the HPARAMS tab.

    No experiment is declared: TensorBoard would show the declared experiment of only one run. Without any it shows all
    hyper-parameters of all runs, those first that differ, and the last value of every scalar as a metric.

    Args:
      hparams: by name.
      group: runs of the same group are one row, with the means of their metrics; "" for a row of its own.
    """
    info = plugin_data_pb2.SessionStartInfo(start_time_secs=time.time(), group_name=group)
    for name, value in hparams.items():
        if isinstance(value, bool):
            info.hparams[name].bool_value = value
        elif isinstance(value, float) and math.isfinite(value):
            info.hparams[name].number_value = value
        else:  # the tab drops numbers that are not finite
            info.hparams[name].string_value = str(value)
    return _hparams(f"{SESSION}/session_start_info", session_start_info=info)


def session_end(success: bool) -> Value:
    """Close the session of this run in the HPARAMS tab."""
    status = api_pb2.STATUS_SUCCESS if success else api_pb2.STATUS_FAILURE
    info = plugin_data_pb2.SessionEndInfo(status=status, end_time_secs=time.time())
    return _hparams(f"{SESSION}/session_end_info", session_end_info=info)


def point_records(paths: Iterable[Path], last_step: int) -> dict[tuple[Any, ...], bytes]:
    """Return the serialized events with points of steps up to last_step, in order, by their step and tags.

    An event that stands in two files counts once. Events that open or close a session hold no points.
    """
    records: dict[tuple[Any, ...], bytes] = {}
    for path in paths:
        for record in sound_records(path.read_bytes()):
            event = Event.FromString(record)
            tags = [value.tag for value in event.summary.value]
            if event.step <= last_step and tags and not any(tag.startswith(SESSION) for tag in tags):
                records[event.step, *tags] = record
    return {content: records[content] for content in sorted(records)}


def _string(tag: str, metadata: Any, content: bytes) -> Value:
    return Summary.Value(tag=tag, metadata=metadata, tensor=TensorProto(dtype=DT_STRING, string_val=[content]))


def _hparams(tag: str, **info: Any) -> Value:
    content = plugin_data_pb2.HParamsPluginData(version=0, **info).SerializeToString()
    metadata = SummaryMetadata(plugin_data=PluginData(plugin_name="hparams", content=content))
    empty = TensorProto(dtype=DT_FLOAT)  # the content stands in the metadata, yet TensorBoard wants a tensor
    empty.tensor_shape.dim.add(size=0)
    return Summary.Value(tag=tag, metadata=metadata, tensor=empty)
