"""Federated averaging: a server averages models that sampled clients trained locally.

w_{t+1} = w_t + sum_{k in S_t} (n_k / n_S) (w^k - w_t), where w^k are E epochs of SGD from w_t on client k's n_k
samples. Clients send the change w^k - w_t, which codecs make small; the result is the mean of the models.
McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", AISTATS 2017
(arXiv 1602.05629). With a server optimizer, the step is taken along w_t - w_{t+1} (Reddi et al., 2021, arXiv
2003.00295).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from shoal.aggregation import mean
from shoal.learning import Learner
from shoal.optim import Rule
from shoal.protocols.needs import Needs, check_steps
from shoal.tensors.payload import Content, Payload, expect, expect_whole


@dataclass(frozen=True)
class Trained(Payload):
    """What a client returns: the packed change of its model, and how many samples it was trained on."""

    change: Content
    samples: int


@dataclass(frozen=True)
class FedAvg:
    """Server and clients of federated averaging. FedSGD is `epochs=1, batch=None`.

    Attributes:
        fraction: share C of the clients in a round, in (0, 1]; at least one takes part.
        epochs: local passes E over a client's data; set `steps` to train for a number of batches instead.
        steps: local steps, instead of epochs.
        batch: local batch size B; -1: the run's; None: all of a client's data (B = infinity).
        server: optimizer of the server; None replaces the model by the average.
        timeout: virtual seconds to wait for clients; None waits as long as the world warrants.
    """

    fraction: float = 1.0
    epochs: int = 1
    steps: int | None = None
    batch: int | None = -1
    server: Rule | None = None
    timeout: float | None = None
    needs: ClassVar[Needs] = Needs(server=True, requests=True, packs="update")

    def __post_init__(self) -> None:
        check_steps(self.steps, self.timeout)
        if not 0.0 < self.fraction <= 1.0:
            raise ValueError(f"fraction: got {self.fraction}; a number in (0, 1] is allowed")

    async def __call__(self, me: Learner) -> None:
        """What the server does; a client only answers."""
        if not me.is_server:
            me.serve("train", partial(self.train, me), capacity=1, asker=me.server)
            return
        clients = me.clients
        # 0.29 * 100 is 28.999...: the billionth keeps a client that exact arithmetic has.
        count = max(int(self.fraction * len(clients) + 1e-9), 1)
        async for r in me.rounds():
            chosen = sorted(me.rng("participants", r).sample(clients, count))
            replies = await me.request_all(chosen, me.model, "train", timeout=self.timeout)
            read = me.read_all(replies, counted)
            changes = me.unpack_all({k: reply.change for k, reply in read.items()})
            if changes:
                average = me.model + mean(list(changes.values()), [read[k].samples for k in changes])
                me.model = average if self.server is None else server_step(me, self.server, average)

    async def train(self, me: Learner, sender: int, model: Content) -> Trained:
        """A client's part of a round; no optimizer state is carried over."""
        me.model = model = me.vector(model)
        me.reset_optimizer()
        passes = self.epochs if self.steps is None else None
        await me.train(self.steps, epochs=passes, batch=self.batch)
        return Trained(await me.pack(me.model - model), me.samples)


def counted(reply: Content) -> Trained:
    """A client's reply; raises MalformedPayload if it is none, or of no samples."""
    trained = expect(reply, Trained)
    expect_whole("samples", trained.samples, low=1)
    return trained


def server_step(me: Learner, rule: Rule, average: Tensor) -> Tensor:
    """The server's optimizer, with the way from the average to the model as its gradient; buffers are averaged."""
    gradient = me.model - average
    trained = me.layout.where(role=("trainable", "personal"))
    start = torch.where(trained, me.model, average)
    memory = me.state.get("server") or me.trainer.memory(start, me.key("server"), rule)
    model, me.state["server"] = me.trainer.advance(start, gradient, memory, me.round + 1, rule=rule)
    return model
