"""FedVote: clients vote on binary or ternary weights, and the server turns their votes into soft weights.

    latent h, weight used s tanh(a h) = s w~;   client: local optimizer steps on h
    binary   w_m = +1 with probability (1 + w~_m) / 2, else -1             1 bit a weight;    E[w_m] = w~_m
    ternary  w_m = sign(w~_m) with probability |w~_m|, else 0              five in a byte
    server   p = sum_m lam_m w_m, clipped to +-(1 - 1e-4);   h = artanh(p) / a
    deployed binary s (+1 where p > 0, else -1);   ternary s sign(p) where |p| > 1/2, else 0

K. Yue, R. Jin, C.-W. Wong, H. Dai, "Federated Learning via Plurality Vote", 2021 (arXiv 2110.02998). lam_m = 1/M, or,
in Byzantine-FedVote, by reputation: CR_m the share of weights where w_m is what most voted for,
nu_m <- beta nu_m + (1 - beta) CR_m from 1 at first, lam_m = nu_m / sum nu.

What is voted on are the tensors of two and more dimensions but the last one, the head, which with all else stays as it
was initialised, in floats. The publication's networks normalise every layer's batch, so that weights of +-1 are no
larger than others; here a layer's s = 1 / sqrt(fan-in) does that for any model, and makes torch's own initialisation
one within (-s, s), from which h starts. Behind a normalisation s changes nothing. As in the authors' code the plurality
is of the votes unweighted, and lam is taken after nu was updated in the same round.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from shoal.learning import Learner
from shoal.learning.objective import Net
from shoal.learning.task import Loss
from shoal.protocols.needs import Needs, check_steps
from shoal.tensors.layout import Layout, Segment
from shoal.tensors.packing import (
    pack_bits,
    pack_trits,
    packed_bits_size,
    packed_trits_size,
    unpack_bits,
    unpack_trits,
)
from shoal.tensors.payload import Content, Payload, expect, expect_whole
from shoal.tensors.random import uniform

CLIP = 1e-4
KINDS = ("binary", "ternary")


@dataclass(frozen=True)
class Ask(Payload):
    """What the server sends: the round, and a vector [d] with latent weights where there is a vote."""

    round: int
    latent: Tensor


@dataclass(frozen=True)
class Vote(Payload):
    """A client's vote, packed: a bit (1: plus) or a trit for each weight."""

    packed: Tensor
    ternary: bool

    def negated(self) -> Vote:
        """The opposite vote; bits that only fill the last byte are turned as well, and are ignored."""
        if not self.ternary:
            return Vote(255 - self.packed, False)
        return Vote(242 - self.packed, True)  # the trits 2 - digit: 2 (1 + 3 + 9 + 27 + 81) = 242


@dataclass(frozen=True)
class Latent:
    """The objective: a task's loss of the model whose voted weights are s tanh(a h), and the others as they are.

    Attributes:
        loss: per sample, of output and targets.
        a: steepness.
        scales: name of a voted tensor and its s.
    """

    loss: Loss
    a: float
    scales: tuple[tuple[str, float], ...]

    def __call__(self, net: Net, inputs: Tensor, targets: Tensor) -> Tensor:
        """Per-sample losses [B]."""
        values = {name: p.detach() for name, p in net.parameters.items()}
        values.update({name: s * torch.tanh(self.a * net.parameters[name]) for name, s in self.scales})
        return self.loss(net(inputs, values), targets)


@dataclass(frozen=True)
class FedVote:
    """Server and clients; the server's model is the deployed one.

    Attributes:
        fraction: share of the clients in a round, in (0, 1]; at least one takes part.
        steps: local optimizer steps tau.
        kind: "binary" or "ternary".
        a: steepness of tanh(a h).
        beta: memory of reputations, in [0, 1); None: all votes count alike.
        cut: with reputations: those below the mean have no vote (the authors' code).
        timeout: virtual seconds to wait for clients; None waits as long as the world warrants.
    """

    fraction: float = 1.0
    steps: int = 40
    kind: str = "binary"
    a: float = 1.5
    beta: float | None = None
    cut: bool = False
    timeout: float | None = None
    needs: ClassVar[Needs] = Needs(server=True, requests=True)

    def __post_init__(self) -> None:
        check_steps(self.steps, self.timeout)
        if not 0.0 < self.fraction <= 1.0:
            raise ValueError(f"fraction: got {self.fraction}; a number in (0, 1] is allowed")
        if self.kind not in KINDS:
            raise ValueError(f"kind: got {self.kind!r}; allowed are {', '.join(KINDS)}")
        if not 0.0 < self.a < math.inf:
            raise ValueError(f"a: got {self.a}; a number above 0 is allowed")
        if self.beta is not None and not 0.0 <= self.beta < 1.0:
            raise ValueError(f"beta: got {self.beta}; a number in [0, 1), or none, is allowed")
        if self.cut and self.beta is None:
            raise ValueError("cut: is about reputations, and needs beta")

    async def __call__(self, me: Learner) -> None:
        """What the server does; a client only answers."""
        voted = voted_segments(me.layout)
        if not me.is_server:
            me.serve("vote", partial(self.vote, me), capacity=1, asker=me.server)
            return
        if "latent" not in me.state:
            me.state["latent"] = self.latent_of(me.model, voted)
            me.state["reputation"] = torch.ones(me.peers, dtype=torch.float64)
        clients, size = me.clients, sum(segment.size for segment in voted)
        count = max(int(self.fraction * len(clients) + 1e-9), 1)
        async for r in me.rounds():
            chosen = sorted(me.rng("participants", r).sample(clients, count))
            replies = await me.request_all(chosen, Ask(r, me.state["latent"]), "vote", timeout=self.timeout)
            votes = me.read_all(replies, partial(self.unpack, count=size))
            if votes:
                p = self.tally(me, {client: vote.to(me.layout.dtype) for client, vote in votes.items()})
                me.state["latent"] = spread(me.state["latent"], voted, inverse(p, self.a))
                me.model = spread(me.model, voted, self.deployed(p) * _scale_vector(voted, p))

    async def vote(self, me: Learner, sender: int, ask: Content) -> Vote:
        """A client's part of a round; no optimizer state is carried over."""
        voted = voted_segments(me.layout)
        ask = expect(ask, Ask)
        start, round = me.vector(ask.latent), expect_whole("round", ask.round)
        me.reset_optimizer()
        objective = Latent(me.trainer.task.loss, self.a, tuple((s.name, scale(s)) for s in voted))
        latent = start + await me.update(self.steps, at=start, objective=objective)
        w = torch.tanh(self.a * gather(latent, voted))
        u = uniform(me.key("vote", round), len(w), dtype=w.dtype, device=w.device)
        return self.pack(sample(w, u, self.kind))

    # -- votes -----------------------------------------------------------------------------------------------------

    def pack(self, w: Tensor) -> Vote:
        """Votes [v] in {-1, 0, 1} as what travels."""
        return Vote(pack_bits(w > 0, 1), False) if self.kind == "binary" else Vote(pack_trits(w), True)

    def unpack(self, vote: Any, count: int) -> Tensor:
        """Votes int8 [count].

        Raises:
            ValueError: it is no vote of this kind on as many weights.
        """
        ternary = self.kind == "ternary"
        size = packed_trits_size(count) if ternary else packed_bits_size(count, 1)
        if not isinstance(vote, Vote) or vote.ternary != ternary or vote.packed.shape != (size,):
            raise ValueError(f"vote: got {type(vote).__name__}; a {self.kind} one in {size} bytes is needed")
        if ternary:
            return unpack_trits(vote.packed, count)
        return unpack_bits(vote.packed, 1, count).to(torch.int8) * 2 - 1

    def tally(self, me: Learner, votes: dict[int, Tensor]) -> Tensor:
        """The soft vote p [v], clipped; reputations move."""
        rows = list(votes.values())
        weights = torch.full((len(rows),), 1.0 / len(rows), dtype=torch.float64)
        if self.beta is not None:
            reputation = me.state["reputation"].clone()
            who = list(votes)
            reputation[who] = self.beta * reputation[who] + (1.0 - self.beta) * credibility(rows, self.kind)
            me.state["reputation"] = reputation
            weights = vote_weights(reputation[who], cut=self.cut)
        p = torch.zeros_like(rows[0])
        for weight, row in zip(weights.tolist(), rows, strict=True):
            p.add_(row, alpha=weight)
        return p.clamp_(-1.0 + CLIP, 1.0 - CLIP)

    def deployed(self, p: Tensor) -> Tensor:
        """The weights with which the model is used, in {-1, 1} or {-1, 0, 1}."""
        if self.kind == "binary":
            return torch.where(p > 0, 1.0, -1.0).to(p.dtype)
        return torch.where(p.abs() > 0.5, p.sign(), 0.0).to(p.dtype)

    def latent_of(self, model: Tensor, voted: list[Segment]) -> Tensor:
        """A vector [d] with latent weights that give the model's voted ones; beyond s they are clipped."""
        w = gather(model, voted)
        return spread(model, voted, inverse(w / _scale_vector(voted, w), self.a))


def voted_segments(layout: Layout) -> list[Segment]:
    """The trained tensors of two and more dimensions, but for the last one.

    Raises:
        ValueError: there are none.
    """
    voted = [s for s in layout if s.role == "trainable" and len(s.shape) > 1 and s.size][:-1]
    if not voted:
        raise ValueError("model: the last layer is not voted on; one with a layer before it is needed")
    return voted


def scale(segment: Segment) -> float:
    """s = 1 / sqrt(fan-in) of a weight [out, in, ...]."""
    return 1.0 / math.sqrt(segment.size / segment.shape[0])


def gather(vector: Tensor, voted: list[Segment]) -> Tensor:
    """The voted entries [v] of a vector [d]."""
    return torch.cat([vector[segment.slice] for segment in voted])


def spread(vector: Tensor, voted: list[Segment], values: Tensor) -> Tensor:
    """A copy of a vector [d] with other voted entries [v]."""
    result, start = vector.clone(), 0
    for segment in voted:
        result[segment.slice] = values[start : start + segment.size]
        start += segment.size
    return result


def _scale_vector(voted: list[Segment], like: Tensor) -> Tensor:
    return torch.cat([like.new_full((segment.size,), scale(segment)) for segment in voted])


def inverse(p: Tensor, a: float) -> Tensor:
    """h with tanh(a h) = p, for p limited to +-(1 - 1e-4)."""
    return torch.atanh(p.clamp(-1.0 + CLIP, 1.0 - CLIP)) / a


def sample(w: Tensor, u: Tensor, kind: str) -> Tensor:
    """Votes [v] for weights in [-1, 1], by uniform draws in [0, 1)."""
    if kind == "binary":
        return torch.where(u < (1.0 + w) / 2.0, 1.0, -1.0).to(w.dtype)
    return torch.where(u < w.abs(), w.sign(), 0.0).to(w.dtype)


def credibility(votes: list[Tensor], kind: str) -> Tensor:
    """CR float64 [m]: how often each of m votes is the most frequent one; of equally frequent ones the lowest is it."""
    values = (-1.0, 1.0) if kind == "binary" else (-1.0, 0.0, 1.0)
    counts = torch.stack([(torch.stack(votes) == value).sum(0) for value in values])
    most = torch.tensor(values)[first_largest(counts)]
    return torch.tensor([float((vote == most).double().mean()) for vote in votes], dtype=torch.float64)


def first_largest(counts: Tensor) -> Tensor:
    """The first place along dimension 0 with the largest count."""
    ranks = torch.arange(len(counts), 0, -1).view(-1, *[1] * (counts.ndim - 1))
    return (counts * (len(counts) + 1) + ranks).argmax(0)


def vote_weights(reputation: Tensor, *, cut: bool = False) -> Tensor:
    """lam [m], which add up to 1; with `cut`, 0 for those whose reputation is below the mean by more than rounding."""
    if cut:
        reputation = reputation.where(reputation >= reputation.mean() - 1e-12, 0.0)
    total = reputation.sum()
    return reputation / total if float(total) > 0.0 else torch.full_like(reputation, 1.0 / len(reputation))
