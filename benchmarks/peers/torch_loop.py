"""Plain torch: a training loop as one writes it, images as [B, C, H, W]."""

from __future__ import annotations

import time
from typing import Any

import torch  # pyright: ignore[reportMissingImports]

from benchmarks.images import load
from benchmarks.peers import torch_gpt
from benchmarks.workloads import SHAPE, Description, Marks, Plan, Workload

LAYERS: dict[str, Any] = {
    "Conv": lambda channels, size, padding: torch.nn.LazyConv2d(channels, size, padding=padding.lower()),
    "MaxPool": lambda: torch.nn.MaxPool2d(2),
    "Relu": torch.nn.ReLU,
    "Flatten": torch.nn.Flatten,
    "Dense": torch.nn.LazyLinear,
}


def run(workload: Workload, plan: Plan) -> Marks:
    """A step loop over a shuffled tensor; losses are kept and read at the end."""
    if workload.is_text:
        return torch_gpt.run(plan)
    images, labels = tensors(plan)
    model = network(workload.layers)
    optimizer = torch.optim.Adam(model.parameters(), lr=plan.learning_rate)
    marks, losses, order = [], [], torch.empty(0, dtype=torch.long)
    for step in range(1, plan.warmup + plan.steps + 1):
        if len(order) < plan.batch_size:
            order = torch.randperm(len(labels))
        rows, order = order[: plan.batch_size], order[plan.batch_size :]
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(images[rows]), labels[rows])
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
        if step in (plan.warmup, plan.warmup + plan.steps):
            marks.append((step, time.monotonic()))
    assert torch.stack(losses).isfinite().all()
    return marks


def tensors(plan: Plan) -> tuple[Any, Any]:
    """The training images [N, 1, 28, 28] and labels [N]."""
    images, labels = load(plan.synthetic)
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), torch.from_numpy(labels).long()


def network(layers: Description) -> Any:
    """The network; its lazy layers learn their inputs from one example."""
    model = torch.nn.Sequential(*(LAYERS[name](*options) for name, *options in layers))
    height, width, channels = SHAPE
    model(torch.zeros(1, channels, height, width))
    return model
