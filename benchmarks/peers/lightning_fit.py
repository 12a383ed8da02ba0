"""Lightning with its usual hooks: TensorBoard every window, progress bar, a checkpoint an epoch."""

from __future__ import annotations

import tempfile
import time
from typing import Any

import lightning  # pyright: ignore[reportMissingImports]
import torch  # pyright: ignore[reportMissingImports]
from lightning.pytorch.loggers import TensorBoardLogger  # pyright: ignore[reportMissingImports]
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler  # pyright: ignore[reportMissingImports]

from benchmarks.peers.torch_loop import network, tensors
from benchmarks.workloads import Marks, Plan, Workload


def run(workload: Workload, plan: Plan) -> Marks:
    """`Trainer.fit` for an epoch to warm up and as many as the plan's steps fill."""
    examples = Examples(*tensors(plan))
    # A sampler of whole batches spares the loader to collate single examples.
    sampler = BatchSampler(RandomSampler(examples), plan.batch_size, drop_last=True)
    loader = DataLoader(examples, sampler=sampler, batch_size=None)
    stopwatch = Stopwatch()
    with tempfile.TemporaryDirectory() as folder:
        trainer = lightning.Trainer(
            accelerator="cpu",
            max_epochs=1 + -(-plan.steps // plan.epoch),
            limit_train_batches=plan.epoch,
            log_every_n_steps=plan.window,
            logger=TensorBoardLogger(folder),
            default_root_dir=folder,
            callbacks=[stopwatch],
        )
        trainer.fit(Classifier(network(workload.layers), plan.learning_rate), loader)
    return stopwatch.marks


class Examples(Dataset):
    """Rows of two tensors, a batch at a time."""

    def __init__(self, images: Any, labels: Any) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: list[int]) -> tuple[Any, Any]:
        return self.images[rows], self.labels[rows]


class Classifier(lightning.LightningModule):
    """Cross-entropy and Adam; the loss is logged."""

    def __init__(self, model: Any, learning_rate: float) -> None:
        super().__init__()
        self.model, self.learning_rate = model, learning_rate

    def training_step(self, batch: Any, index: int) -> Any:
        """The loss of a batch."""
        images, labels = batch
        loss = torch.nn.functional.cross_entropy(self.model(images), labels)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        """Adam."""
        return torch.optim.Adam(self.parameters(), lr=self.learning_rate)


class Stopwatch(lightning.Callback):
    """Notes the time at the first step and at the end of every epoch."""

    def __init__(self) -> None:
        self.marks: Marks = []

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        """Note the time."""
        self.marks.append((trainer.global_step, time.monotonic()))
