"""Processes that hold equal replicas of a model, and exchange small messages in each step of an optimizer.

Every process computes gradients on data of its own, without averaging them: without `DistributedDataParallel`, or
within its `no_sync`. What the processes send is gathered by all, and each takes the same step by the same arithmetic.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from shoal.tensors.layout import Layout
from shoal.tensors.payload import Content, decode, encode

Flat = dict[str, Tensor]


class Replicated(torch.optim.Optimizer):
    """Base of the optimizers of this room. A parameter group's vectors are flat [d], one parameter after the other.

    Args:
        params: parameters or groups of them, as of any torch optimizer; equal in all processes, for which those of the
            first process of the group are taken over.
        defaults: settings of the groups.
        process_group: which processes; None: all.

    Attributes:
        sent: bytes of all messages that this process has sent to the others.
    """

    def __init__(self, params: Iterable[Any], defaults: dict[str, Any], process_group: Any = None) -> None:
        super().__init__(params, defaults)
        self.process_group = process_group
        self.sent = 0
        first = dist.get_global_rank(process_group, 0) if process_group is not None else 0
        for group in self.param_groups:
            group.setdefault("steps", 0)
            for p in group["params"]:
                dist.broadcast(p.detach(), first, group=process_group)

    @abstractmethod
    def move(self, group: dict[str, Any], x: Tensor, g: Tensor, memory: Flat, layout: Layout) -> Tensor:
        """The new parameters [d] from the old ones and this process's gradient; `memory` is changed as needed."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of all processes together; a parameter without a gradient counts with zeros."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params: list[Tensor] = group["params"]
            layout = Layout.from_tensors({str(i): p for i, p in enumerate(params)})
            x = torch.cat([p.detach().flatten() for p in params])
            g = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in params])
            memory = self._recall(params)
            group["steps"] += 1
            moved = self.move(group, x, g, memory, layout)
            self._keep(params, memory, layout)
            for p, new in zip(params, layout.unflatten(moved).values(), strict=True):
                p.copy_(new)
        return loss

    def gather(self, payload: Content) -> list[Content]:
        """What all processes sent, by rank, this one's included.

        Raises:
            MalformedPayload: one sent something else than a payload.
        """
        data = torch.frombuffer(bytearray(encode(payload)), dtype=torch.uint8)
        world = dist.get_world_size(self.process_group)
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(world)]
        dist.all_gather(sizes, torch.tensor([data.numel()]), group=self.process_group)
        longest = max(int(size) for size in sizes)
        padded = torch.cat((data, data.new_zeros(longest - data.numel())))
        rows = [torch.empty_like(padded) for _ in range(world)]
        dist.all_gather(rows, padded, group=self.process_group)
        self.sent += (world - 1) * (longest + 8)
        return [decode(row[: int(size)].numpy().tobytes()) for row, size in zip(rows, sizes, strict=True)]

    def _recall(self, params: list[Tensor]) -> Flat:
        names = list(self.state[params[0]]) if params else []
        return {name: torch.cat([self.state[p][name].flatten() for p in params]) for name in names}

    def _keep(self, params: list[Tensor], memory: Flat, layout: Layout) -> None:
        for name, vector in memory.items():
            for p, part in zip(params, layout.unflatten(vector).values(), strict=True):
                self.state[p][name] = part.clone()
