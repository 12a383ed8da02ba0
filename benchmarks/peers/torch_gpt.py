"""The character GPT in plain torch, as nanoGPT sets it up for a CPU."""

from __future__ import annotations

import math
import time
from typing import Any

import torch  # pyright: ignore[reportMissingImports]
from torch.nn.functional import (  # pyright: ignore[reportMissingImports]
    cross_entropy,
    gelu,
    scaled_dot_product_attention,
)

from benchmarks.gpt import batches
from benchmarks.workloads import GPT, Marks, Plan


def run(plan: Plan) -> Marks:
    """A step loop; losses are kept and read at the end."""
    model = Network()
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=plan.learning_rate, betas=(0.9, 0.99))
    marks, losses = [], []
    for step, (inputs, targets) in zip(range(1, plan.warmup + plan.steps + 1), batches(plan), strict=False):
        optimizer.zero_grad(set_to_none=True)
        logits = model(torch.from_numpy(inputs))
        loss = cross_entropy(logits.flatten(0, 1), torch.from_numpy(targets).flatten().long())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.detach())
        if step in (plan.warmup, plan.warmup + plan.steps):
            marks.append((step, time.monotonic()))
    assert torch.stack(losses).isfinite().all()
    return marks


class Block(torch.nn.Module):
    """Attention and a perceptron, each added to its inputs."""

    def __init__(self) -> None:
        super().__init__()
        C = GPT.width
        self.norm1, self.norm2 = (torch.nn.LayerNorm(C, bias=False) for _ in range(2))
        self.qkv, self.out = torch.nn.Linear(C, 3 * C, bias=False), torch.nn.Linear(C, C, bias=False)
        self.wide, self.narrow = torch.nn.Linear(C, 4 * C, bias=False), torch.nn.Linear(4 * C, C, bias=False)
        for layer in (self.qkv, self.wide):
            torch.nn.init.normal_(layer.weight, std=0.02)
        for layer in (self.out, self.narrow):
            torch.nn.init.normal_(layer.weight, std=0.02 / math.sqrt(2 * GPT.layers))

    def forward(self, stream: Any) -> Any:
        """[B, T, C] to [B, T, C]."""
        B, T, C = stream.shape
        parts = self.qkv(self.norm1(stream)).split(C, dim=2)
        query, key, value = (part.view(B, T, GPT.heads, -1).transpose(1, 2) for part in parts)
        mixed = scaled_dot_product_attention(query, key, value, is_causal=True)
        stream = stream + self.out(mixed.transpose(1, 2).reshape(B, T, C))
        return stream + self.narrow(gelu(self.wide(self.norm2(stream))))


class Network(torch.nn.Module):
    """Characters [B, T] to logits [B, T, vocabulary]."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(GPT.vocabulary, GPT.width)
        self.positions = torch.nn.Embedding(GPT.block, GPT.width)
        for embedding in (self.table, self.positions):
            torch.nn.init.normal_(embedding.weight, std=0.02)
        self.blocks = torch.nn.Sequential(*(Block() for _ in range(GPT.layers)))
        self.norm = torch.nn.LayerNorm(GPT.width, bias=False)

    def forward(self, tokens: Any) -> Any:
        """The head is the embedding table."""
        stream = self.table(tokens) + self.positions.weight
        return self.norm(self.blocks(stream)) @ self.table.weight.T
