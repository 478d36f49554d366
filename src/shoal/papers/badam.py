"""Q. Luo, H. Yu, X. Li, "BAdam: A Memory Efficient Full Parameter Training Method for Large Language Models", 2024
(NeurIPS 2024, arXiv 2404.02827).

Claimed: to train one block of the parameters at a time with Adam, all others frozen, needs 2 M + 16 M / D GB for M
billion parameters in D blocks where Adam needs 18 M; it is better than LoRA (MT-bench, Llama 3 8B: 6.67 against 6.41)
and LOMO, and about as good as Adam.

Criteria, fixed before the run:

1. With one block and no end to it, it is torch's AdamW, to 1e-12.
2. MLP of five layers, each a block: in every step all parameters of the other blocks keep their bits, and by the end of
   a block epoch every block has moved.
3. In every step live gradients are at most the bytes of the largest block, and state at most twice as many, as
   measured; AdamW's gradients are the whole model, its state twice that.
4. Fashion-MNIST, that MLP, equal numbers of batches, each with its best rate: test accuracy at most 1 point below
   AdamW's.
5. It is at least 1 point above LoRA's (rank 2, AdamW),
6. and at least 1 point above SGD's, which is what LOMO computes.

Notes. The publication fine-tunes; here training begins at random weights, to which low ranks are less suited. Blocks
take 20 steps each, so that there are several block epochs ("check": 10). Output layers are trained too. LoRA's base and
biases are frozen, and all layers have adapters.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shoal.learning import Task
from shoal.learning.contenders import Contender
from shoal.optim import SGD, AdamW, Optimizer
from shoal.optim.badam import BAdam
from shoal.papers.optimizers import apart, fashion, points, race, record, torch_path
from shoal.papers.result import Finding, Result
from shoal.tensors import key, normal

MARGIN = 0.01
DEPTH = 4
CHANGES: dict[str, dict[str, Any]] = {
    "check": {"steps": 100, "rates": (1e-3, 3e-3, 1e-2), "seeds": (7,)},
    "full": {"rates": (3e-4, 1e-3, 3e-3, 1e-2)},
}
SGD_RATES = {"check": (3e-2, 1e-1, 3e-1), "full": (1e-2, 3e-2, 1e-1, 3e-1)}
BLOCK_STEPS = {"check": 10, "full": 20}


def claim(scale: str = "check") -> Result:
    """Check the claim; see the module's docstring for the criteria."""
    figures: dict[str, float] = {}
    findings = [one_block(figures), frozen(figures), memory(figures)]
    found = race(
        {
            "AdamW": Contender(AdamW),
            "BAdam": Contender(BAdam, {"switch_block_every": BLOCK_STEPS[scale]}),
            "SGD": Contender(SGD, rates=SGD_RATES[scale]),
        },
        scale,
        fashion(DEPTH),
        **CHANGES[scale],
    )
    record(found, figures)
    lora = race({"LoRA": Contender(AdamW)}, scale, adapted(fashion(DEPTH)), **CHANGES[scale])
    record(lora, figures)
    means = {entry.name: entry.mean for entry in (*found.entries, *lora.entries)}
    findings += contest(means, found.task)
    published = {
        "MT-bench, Llama 3 8B, BAdam, LoRA": "6.67, 6.41",
        "MT-bench, Llama 2 7B, BAdam, LoRA": "5.21, 4.86",
        "GB for M billion parameters, BAdam, Adam": "2 M + 16 M / D, 18 M",
    }
    return Result(findings, figures, published, found.seeds)


# -- exact -------------------------------------------------------------------------------------------------------------


def one_block(figures: dict[str, float], lr: float = 0.02, steps: int = 50) -> Finding:
    """Criterion 1."""
    gradients = list(normal(key(47, "gradients"), (steps, 30), dtype=torch.float64))
    start = torch.ones(30, dtype=torch.float64)
    blocks = partial(BAdam, switch_block_every=float("inf"))
    ours, theirs = (torch_path(make, gradients, start, lr=lr, weight_decay=0.1) for make in (blocks, torch.optim.AdamW))
    error = figures["one block: distance from AdamW"] = apart(ours, theirs)
    return Finding("one block: torch's AdamW, to 1e-12", f"{error:.1e}", error <= 1e-12)


def stepped(model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> int:
    """Train a step on random data; returns the bytes of the gradients that there were."""
    inputs = normal(key(48, "inputs", step), (16, 64))
    targets = (inputs[:, :10]).argmax(1)
    F.cross_entropy(model(inputs), targets).backward()
    held = sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
    optimizer.step()
    optimizer.zero_grad()
    return held


def layers() -> nn.Module:
    """An MLP of five layers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(49)
        widths = (64, 48, 40, 32, 24, 10)
        parts = [nn.Sequential(nn.Linear(a, b), nn.Tanh()) for a, b in pairwise(widths)]
        return nn.Sequential(*parts)


def frozen(figures: dict[str, float], steps_in_block: int = 4) -> Finding:
    """Criterion 2."""
    model = layers()
    optimizer = BAdam(model.named_parameters(), 0.01, switch_block_every=steps_in_block)
    begin = [p.detach().clone() for p in model.parameters()]
    strayed = 0
    for step in range(steps_in_block * len(optimizer.blocks)):
        active = {id(p) for p in optimizer.active}
        before = [p.detach().clone() for p in model.parameters()]
        stepped(model, optimizer, step)
        changed = [p for p, old in zip(model.parameters(), before, strict=True) if not torch.equal(p, old)]
        strayed += sum(id(p) not in active for p in changed)
    still = sum(torch.equal(p, old) for p, old in zip(model.parameters(), begin, strict=True))
    figures |= {"blocks": len(optimizer.blocks), "tensors that moved while frozen": strayed}
    figures["tensors that had not moved after a block epoch"] = still
    return Finding(
        "frozen blocks keep their bits; after a block epoch all have moved",
        f"{len(optimizer.blocks)} blocks, {strayed} tensors moved while frozen, {still} not at all",
        len(optimizer.blocks) == DEPTH + 1 and strayed == 0 and still == 0,
    )


def memory(figures: dict[str, float], steps: int = 30) -> Finding:
    """Criterion 3."""
    most: dict[str, list[int]] = {}
    largest = whole = 0
    makes: dict[str, Callable[..., Optimizer]] = {"BAdam": partial(BAdam, switch_block_every=3), "AdamW": AdamW}
    for name, make in makes.items():
        model = layers()
        optimizer = make(model.named_parameters(), 0.01)
        whole = sum(p.nbytes for p in model.parameters())
        if isinstance(optimizer, BAdam):
            largest = max(sum(p.nbytes for p in block) for block in optimizer.blocks)
        pairs = [(stepped(model, optimizer, step), optimizer.state_bytes()) for step in range(steps)]
        most[name] = [max(values) for values in zip(*pairs, strict=True)]
        figures |= {f"{name}: most bytes of gradients": most[name][0], f"{name}: most bytes of state": most[name][1]}
    figures |= {"bytes of the largest block": largest, "bytes of the model": whole}
    return Finding(
        "gradients at most of the largest block, state at most twice; AdamW: of the model, twice that",
        f"{most['BAdam']} bytes, block {largest}; {most['AdamW']} bytes, model {whole}",
        most["BAdam"][0] <= largest and most["BAdam"][1] <= 2 * largest and most["AdamW"] == [whole, 2 * whole],
    )


# -- accuracy ----------------------------------------------------------------------------------------------------------


class Adapted(nn.Module):
    """A frozen linear layer with an adapter of low rank: W x + b + B A x."""

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Parameter(torch.randn(rank, base.in_features) / base.in_features**0.5)
        self.up = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        """[B, in] -> [B, out]."""
        return self.base(x) + (x @ self.down.T) @ self.up.T  # type: ignore[no-any-return]


def adapted(task: Task, rank: int = 2) -> Task:
    """The task with adapters in all linear layers of its (sequential) model."""

    def build() -> nn.Module:
        plain = task.model()
        return nn.Sequential(*(Adapted(m, rank) if isinstance(m, nn.Linear) else m for m in plain.children()))

    return Task(f"{task.name}, adapted", build, task.dataset)


def contest(means: dict[str, float], task: str) -> list[Finding]:
    """Criteria 4 to 6, from mean test accuracies."""
    ours = means["BAdam"]

    def told(other: str) -> str:
        return f"{ours:.2%} against {means[other]:.2%}, {points(ours, means[other])}"

    return [
        Finding(f"{task}: at most 1 point below AdamW", told("AdamW"), ours >= means["AdamW"] - MARGIN),
        Finding("at least 1 point above LoRA", told("LoRA"), ours >= means["LoRA"] + MARGIN),
        Finding("at least 1 point above SGD (LOMO)", told("SGD"), ours >= means["SGD"] + MARGIN),
    ]
