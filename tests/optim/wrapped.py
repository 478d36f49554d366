"""A wrapped optimizer in the place of a class, for assertions that take one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from shoal.optim.core import Optimizer, Rule


@dataclass(frozen=True)
class Wrapped:
    """`wrap(cls(...))` when it is called, and `wrap_rule(cls.rule(...))` for stacked peers."""

    cls: type[Optimizer]
    wrap: Callable[[torch.optim.Optimizer], torch.optim.Optimizer]
    wrap_rule: Callable[[Rule], Rule] = lambda rule: rule

    def __call__(self, params: Any, **settings: Any) -> torch.optim.Optimizer:
        return self.wrap(self.cls(params, **settings))

    def rule(self, **settings: Any) -> Rule:
        return self.wrap_rule(self.cls.rule(**settings))
