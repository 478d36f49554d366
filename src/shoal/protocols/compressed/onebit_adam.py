"""1-bit Adam: Adam in full precision first, then signs of the momentum with error feedback, over a variance that stays.

    t <= T_w:   Adam on the mean of the gradients                                       up: g_i      down: their mean
    then:       u_i = beta1 m + (1 - beta1) g_i + e_i      e_i <- u_i - C(u_i)          up: C(u_i)
                s = mean_i C(u_i) + e      m <- C(s)      e <- s - m                    down: C(s)
                x <- x - lr m [v > 0] / (sqrt(v) + eps)
    C(u) = sign(u) |u|_2 / sqrt(d) for each layer, sign(0) = 1

H. Tang, S. Gan, A. A. Awan, S. Rajbhandari, C. Li, X. Lian, J. Liu, C. Zhang, Y. He, "1-bit Adam: Communication
Efficient Large-Scale Training with Adam's Convergence Speed", 2021 (arXiv 2102.02888). The publication splits the
server's part into as many chunks as there are workers, each with a scale; here each layer has one, on both ways.
An error e_i that a worker has when its message is lost, or when it crashes, is gone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from shoal.aggregation import mean
from shoal.compression.onebit_adam import (
    check_settings,
    cold_step,
    compensated,
    decoded,
    frozen,
    warm_step,
    with_error,
)
from shoal.learning import Learner
from shoal.protocols.compressed.replicas import Replicated
from shoal.protocols.needs import Needs
from shoal.tensors.payload import Content, is_finite


@dataclass(frozen=True)
class OneBitAdam(Replicated):
    """Each round one step of all replicas.

    Attributes:
        lr: learning rate.
        betas: in [0, 1): of the momentum and of the variance.
        eps: above 0.
        warmup: T_w >= 1, steps in full precision; 15 to 25% of all, as published.
        timeout: virtual seconds to wait for the workers; None waits as long as the world warrants.
    """

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    warmup: int = 100
    needs: ClassVar[Needs] = Needs(server=True, requests=True, optimizer=False)
    shares: ClassVar[tuple[str, ...]] = ("m", "v")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_settings(self.lr, self.betas, self.eps, self.warmup)

    def message(self, me: Learner, g: Tensor) -> Content:
        """The gradient, later a bit an entry of the momentum."""
        if self.at(me) < self.warmup:
            return g
        error = me.state.get("error", torch.zeros_like(g))
        payload, me.state["error"] = compensated(me.state["m"], g, error, self.betas[0], me.packer.part)
        return payload

    def read(self, me: Learner, message: Content) -> Tensor:
        """Numbers [m]."""
        if self.at(me) >= self.warmup:
            return decoded(message, me.packer.part)
        size, dtype = me.packer.part.size, me.packer.part.dtype
        if not isinstance(message, Tensor) or message.shape != (size,) or message.dtype != dtype:
            raise ValueError(f"payload: {dtype} [{size}] is needed")
        return message

    def combine(self, me: Learner, messages: Mapping[int, Tensor]) -> Content:
        """The mean, later a bit an entry of it."""
        average = mean(list(messages.values()))
        if self.at(me) < self.warmup:
            return average
        payload, me.state["error"] = with_error(average + me.state.get("error", 0.0), me.packer.part)
        return payload

    def step(self, me: Learner, workers: int, content: Content) -> None:
        """Adam's, or along the momentum that the server made."""
        numbers, t = self.read(me, content), self.at(me) + 1
        if not is_finite(numbers):
            raise ValueError("payload: its numbers decode to NaN or infinity")
        x, _ = me.packer.split(me.model)
        m, v = (me.state.get(name, torch.zeros_like(x)) for name in ("m", "v"))
        if t <= self.warmup:
            x, m, v = warm_step(x, m, v, numbers, t, self.lr, self.betas, self.eps)
            v = frozen(v, t, self.betas[1]) if t == self.warmup else v
        else:
            x, m = cold_step(x, numbers, v, self.lr, self.eps)
        me.state["m"], me.state["v"] = m, v
        me.model = me.packer.join(x, me.model)
