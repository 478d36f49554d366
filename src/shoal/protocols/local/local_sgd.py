"""Local SGD with an outer optimizer: many local steps, then one step of the server along their mean change (DiLoCo).

    theta_k <- H local steps from theta      Delta = mean_k (theta - theta_k)
    m <- mu m + Delta                        theta <- theta - lr_out (Delta + mu m)

S. U. Stich, "Local SGD Converges Fast and Communicates Little", 2018 (arXiv 1805.09767); A. Douillard et al., "DiLoCo:
Distributed Low-Communication Training of Language Models", 2023 (arXiv 2311.08105), with lr_out = 0.7 and mu = 0.9;
Q. He, X. Zhuang, Z. Wu, "Exploring Scaling Laws for Local SGD in Large Language Model Training", 2024 (arXiv
2409.13198). Plain averaging is lr_out = 1, mu = 0. With H = 1 as well, and SGD inside, it is `ParallelSGD`.

What the local optimizer remembers stays at its worker and is not reset, though the model changes under it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from shoal.aggregation import mean
from shoal.learning import Learner
from shoal.optim import SGD, Rule
from shoal.protocols.federated.fedavg import server_step
from shoal.protocols.needs import Needs, check_steps
from shoal.tensors.payload import Content


@dataclass(frozen=True)
class LocalSGD:
    """Each round: every worker takes `steps` local steps, and the server one along the mean of their changes.

    Attributes:
        steps: local steps H a round, of the run's optimizer.
        outer_lr: learning rate of the server, above 0.
        outer_momentum: Nesterov momentum mu of the server, in [0, 1).
        timeout: virtual seconds to wait for the workers; None waits as long as the world warrants. The mean is over
            those who answered; their numbers of samples do not matter.
    """

    steps: int = 50
    outer_lr: float = 0.7
    outer_momentum: float = 0.9
    timeout: float | None = None
    needs: ClassVar[Needs] = Needs(server=True, requests=True, packs="update")

    def __post_init__(self) -> None:
        check_steps(self.steps, self.timeout)
        check_outer(self.outer_lr, self.outer_momentum)

    @property
    def outer(self) -> Rule:
        """The server's optimizer."""
        return SGD.rule(self.outer_lr, momentum=self.outer_momentum, nesterov=self.outer_momentum > 0)

    async def __call__(self, me: Learner) -> None:
        """What the server does; a worker only answers."""
        if not me.is_server:
            me.serve("train", partial(self.train, me), capacity=1, asker=me.server)
            return
        async for _ in me.rounds():
            replies = await me.request_all(me.clients, me.model, "train", timeout=self.timeout)
            changes = me.unpack_all(replies)
            if changes:
                me.model = server_step(me, self.outer, me.model + mean(list(changes.values())))

    async def train(self, me: Learner, sender: int, model: Content) -> Content:
        """A worker's part of a round."""
        me.model = model = me.vector(model)
        await me.train(self.steps)
        return await me.pack(me.model - model)


def check_outer(lr: float, momentum: float) -> None:
    """Refuse an outer step that cannot be.

    Raises:
        ValueError: a rate that is not above 0, or a momentum outside [0, 1).
    """
    if not 0.0 < lr < math.inf:
        raise ValueError(f"outer_lr: got {lr}; a finite number above 0 is allowed")
    if not 0.0 <= momentum < 1.0:
        raise ValueError(f"outer_momentum: got {momentum}; a number in [0, 1) is allowed")
