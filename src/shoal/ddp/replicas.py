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

from shoal.compression.gathering import gather
from shoal.tensors.layout import Layout
from shoal.tensors.payload import Content, decode, encode, is_finite

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
        self._finite, self._device = True, torch.device("cpu")  # of the gradient at hand
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
        """One step of all processes together; a parameter without a gradient counts with zeros.

        Raises:
            ValueError: in every process, if a gradient of one of them holds NaN or infinity; nothing has changed then.
        """
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
            self._finite, self._device = is_finite(g), g.device
            moved = self.move({**group, "steps": group["steps"] + 1}, x, g, memory, layout)
            group["steps"] += 1
            self._keep(params, memory, layout)
            for p, new in zip(params, layout.unflatten(moved).values(), strict=True):
                p.copy_(new)
        return loss

    def gather(self, payload: Content) -> list[Content]:
        """What all processes sent, by rank, this one's included.

        Raises:
            ValueError: the gradient of one of them was not finite, in every process; or one sent something else than a
                payload.
        """
        data = encode(payload)
        rows = gather(data if self._finite else None, self._device, self.process_group)
        self.sent += (len(rows) - 1) * (max(map(len, rows)) + 8)
        return [decode(row) for row in rows]

    def _recall(self, params: list[Tensor]) -> Flat:
        names = list(self.state[params[0]]) if params else []
        return {name: torch.cat([self.state[p][name].flatten() for p in params]) for name in names}

    def _keep(self, params: list[Tensor], memory: Flat, layout: Layout) -> None:
        for name, vector in memory.items():
            for p, part in zip(params, layout.unflatten(vector).values(), strict=True):
                self.state[p][name] = part.clone()
