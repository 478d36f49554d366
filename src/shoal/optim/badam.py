"""BAdam: one block of the parameters at a time has gradients and Adam's state, the others are frozen.

    a block epoch: take the blocks in some order; for each, with m = v = 0 and for k = 1 ... switch_block_every:
        m <- beta1 m + (1 - beta1) g        v <- beta2 v + (1 - beta2) g^2
        p <- (1 - lr lam) p - lr (m / (1 - beta1^k)) / (sqrt(v / (1 - beta2^k)) + eps)
    then drop m, v and the gradients

Q. Luo, H. Yu, X. Li, "BAdam: A Memory Efficient Full Parameter Training Method for Large Language Models",
arXiv:2404.02827 (2024).

Choices: every block gets the full number of steps (the authors' code gives the first block one less). 100 steps and the
rate are those of the experiments with language models. The order is drawn anew for each block epoch. Parameters of low
precision have a float32 copy while their block is active. The experiments freeze embeddings and output layers: call
`requires_grad_(False)` on them before. Weight decay is AdamW's, of the active block only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from shoal.optim.adam import AdamScaling
from shoal.optim.common import decoupled, widened
from shoal.optim.core import Argument, Chain, Optimizer, Param, Rule
from shoal.optim.core.arguments import whole
from shoal.optim.core.optimizer import Params, Settings, check_closure
from shoal.tensors.random import key, permutation

Order = Literal["random", "ascending", "descending"]


class BAdam(Optimizer):
    """BAdam; `requires_grad` of the parameters is switched on and off.

    Which parameters form a block: groups with the same `block`; without one, the layers by their names
    (`BAdam(model.named_parameters())`, see `block_of`); without names each tensor is one. Parameters that need no
    gradient at first stay frozen. A step counts for the active block, whichever of its tensors have gradients.

        optimizer = BAdam(model.named_parameters(), lr=1e-5)
        for batch in batches:
            loss(model, batch).backward()        # a new batch in each step; gradients of the active block only
            optimizer.step()
            optimizer.zero_grad()
        optimizer.release()                      # every parameter needs gradients again

    Attributes:
        blocks: tensors of each block.
        active: those of the active one.
        epoch: number of the block epoch, from 0.
        steps_in_block: steps taken with the active block.
    """

    lr: float = 1e-6
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    switch_block_every: float = 100
    block_order: Order = "random"
    seed: int = 0
    block: str | int | None = None

    about: ClassVar[dict[str, Argument]] = {
        "switch_block_every": Argument(
            "steps with one block", "a whole number >= 1, or infinity", lambda v: whole(1)(v) or v == math.inf
        ),
        "block_order": Argument(
            "order of the blocks in a block epoch",
            "'random', 'ascending' or 'descending'",
            lambda v: v in ("random", "ascending", "descending"),
        ),
        "seed": Argument("of the random orders", "a whole number >= 0", whole(0)),
        "block": Argument(
            "the block to which a group belongs",
            "a name, a whole number or None",
            lambda v: v is None or isinstance(v, str | int),
        ),
    }

    @classmethod
    def links(cls, h: Settings, param: Param) -> Chain:
        """AdamW's."""
        beta1, beta2 = h.betas
        return *widened(param), *decoupled(h.weight_decay), AdamScaling(beta1, beta2, h.eps)

    @classmethod
    def rule(cls, **settings: Any) -> Rule:
        """There is none: which parameters move is not said by a chain for each of them."""
        raise NotImplementedError("BAdam freezes parameters of one model; it has no rule for stacked peers")

    def __init__(self, params: Params, *args: Any, **kwargs: Any) -> None:
        self._blocks: dict[Any, list[Tensor]] = {}
        self._at: dict[str, Any] = {}
        super().__init__(params, *args, **kwargs)
        if not self._blocks:
            raise ValueError("params: got none that needs a gradient; BAdam needs one block at least")
        self._at = {"epoch": -1, "to_come": [], "active": 0, "steps": 0}
        self.next_block()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group. In the middle of training its new blocks are frozen until the next block epoch."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        names = group.get("param_names") or [None] * len(group["params"])
        for name, p in zip(names, group["params"], strict=True):
            if not p.requires_grad:
                continue
            label: Any = p  # of its own
            if group["block"] is not None:
                label = "given", group["block"]
            elif name:
                label = "named", block_of(name)
            self._blocks.setdefault(label, []).append(p)
            if self._at:
                p.requires_grad_(any(p is q for q in self.active))

    # -- blocks -----------------------------------------------------------------------------------------------------

    @property
    def blocks(self) -> list[list[Tensor]]:
        """Tensors of each block."""
        return list(self._blocks.values())

    @property
    def active(self) -> list[Tensor]:
        """Tensors of the active block."""
        return self.blocks[self._at["active"]]

    @property
    def epoch(self) -> int:
        """Number of the block epoch, from 0."""
        return int(self._at["epoch"])

    @property
    def steps_in_block(self) -> int:
        """Steps taken with the active block."""
        return int(self._at["steps"])

    def next_block(self) -> None:
        """Drop state and gradients of the active block, and go on with the next one."""
        at = self._at
        if not at["to_come"]:
            at["epoch"] += 1
            order: Order = self.defaults["block_order"]
            at["to_come"] = order_of_blocks(order, len(self._blocks), at["epoch"], self.defaults["seed"])
        at["active"], at["steps"] = at["to_come"].pop(0), 0
        self.state.clear()
        self._freeze()

    def _freeze(self) -> None:
        for number, block in enumerate(self.blocks):
            for p in block:
                p.requires_grad_(number == self._at["active"])
                if number != self._at["active"]:
                    p.grad = None

    def release(self) -> None:
        """Let every parameter of the blocks need gradients again, when training is over. State is dropped."""
        for block in self.blocks:
            for p in block:
                p.requires_grad_(True)
        self.state.clear()

    # -- steps ------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of the active block, and on to the next block if it was its last.

        Args:
            closure: re-evaluates the model and returns the loss, if given.

        Returns:
            The closure's loss.

        Raises:
            RuntimeError: a gradient is sparse.
        """
        loss = None
        if closure is not None:
            check_closure(closure)
            with torch.enable_grad():
                loss = closure()
        for number, block in enumerate(self.blocks):
            if number != self._at["active"]:
                for p in block:
                    p.grad = None  # set by hand, or left from before
        super().step()
        self._at["steps"] += 1
        if self._at["steps"] >= self.defaults["switch_block_every"]:
            self.next_block()
        return loss

    # -- saving -----------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The active block's state, and where in the block epoch it is."""
        return {**super().state_dict(), "blocks": {**self._at, "to_come": list(self._at["to_come"])}}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Load a state and go on with its block."""
        super().load_state_dict(state_dict)
        at = state_dict["blocks"]
        self._at = {**at, "to_come": list(at["to_come"])}
        self._freeze()

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_blocks": self._blocks, "_at": self._at}


def order_of_blocks(order: Order, blocks: int, epoch: int, seed: int = 0) -> list[int]:
    """The blocks 0 ... blocks - 1 as a block epoch takes them."""
    if order == "random":
        return [int(i) for i in permutation(key(seed, "badam", epoch), blocks)]
    return list(range(blocks)) if order == "ascending" else list(range(blocks))[::-1]


def block_of(name: str) -> str:
    """The layer to which a parameter belongs by its name.

    It is the path up to the first number in it, so that `h.3.attention.weight` and `h.3.mlp.0.bias` are of `h.3`;
    without a number the module, `head` of `head.weight`; the name itself where there is no module.
    """
    parts = name.split(".")
    numbers = [i for i, part in enumerate(parts) if part.isdigit()]
    if numbers:
        return ".".join(parts[: numbers[0] + 1])
    return ".".join(parts[:-1]) or name
