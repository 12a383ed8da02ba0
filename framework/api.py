"""The part of the core that plugins import: the contracts, and the adapters that lift other objects to them."""

from __future__ import annotations

from framework.adapters import as_metric as as_metric
from framework.adapters import as_model as as_model
from framework.adapters import as_optimizer as as_optimizer
from framework.adapters import as_pipeline as as_pipeline
from framework.adapters import as_strategy as as_strategy
from framework.adapters import layer_name as layer_name
from framework.arrays import aligned as aligned
from framework.arrays import as_aligned as as_aligned
from framework.arrays import quick_jit as quick_jit
from framework.arrays import with_sharding as with_sharding
from framework.command import Command as Command
from framework.contracts import Array as Array
from framework.contracts import Batch as Batch
from framework.contracts import Callback as Callback
from framework.contracts import Counted as Counted
from framework.contracts import History as History
from framework.contracts import Loss as Loss
from framework.contracts import Metric as Metric
from framework.contracts import Model as Model
from framework.contracts import Parameter as Parameter
from framework.contracts import PyTree as PyTree
from framework.contracts import Run as Run
from framework.contracts import Schedule as Schedule
from framework.contracts import Shape as Shape
from framework.contracts import StopTraining as StopTraining
from framework.contracts import Store as Store
from framework.contracts import Summary as Summary
from framework.contracts import TargetedLoss as TargetedLoss
from framework.contracts import Targets as Targets
from framework.contracts import Task as Task
from framework.contracts import TrainState as TrainState
from framework.contracts import Transform as Transform
from framework.data import DataPipeline as DataPipeline
from framework.data import InMemory as InMemory
from framework.data import PipelineWrapper as PipelineWrapper
from framework.data import Share as Share
from framework.data import Where as Where
from framework.data import numbered as numbered
from framework.keys import flat as flat
from framework.strategy import Members as Members
from framework.strategy import Strategy as Strategy
from framework.strategy import StrategyWrapper as StrategyWrapper
from framework.trees import leaves_by_path as leaves_by_path
