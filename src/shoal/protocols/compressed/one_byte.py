"""Just one byte: peers send how steep the loss is along random directions that everybody can draw, in a byte each.

    peer a, iteration t, sample j:   z = z(t, a, j) ~ N(0, I)
                                     rho = (L(x + eps z) - L(x - eps z)) / (2 eps)     both on one batch of a
    sent                             sign(rho) and q = clip(round(16 ln |rho|), -63, 63), one byte
    all, by peer, then by sample     x <- x - (lr / n) rho^ z(t, a, j)                 rho^ = sign(rho) e^(q/16)

with n the samples of all peers in this iteration. E. Zelikman, Q. Huang, P. Liang, N. Haber, N. D. Goodman, "Just One
Byte (per gradient): A Note on Low-Bandwidth Decentralized Language Model Finetuning Using Shared Randomness", 2023
(arXiv 2306.10015). The gradient estimate is SPSA's (Spall, 1992), as in MeZO (Malladi et al., 2023).

All models are equal, bit for bit, since each follows from the first one and from the bytes of all iterations: the log,
which a peer that comes late or comes back asks for, and replays. Such a peer sends nothing (an empty message, which it
makes no difference to have heard) until it keeps pace. Peers that did not hear the same differ until they compare
digests of their models; then they ask each other for their logs, and all go on from the union, in which every peer's
bytes are there once.

The authors' code computes the byte and sends the float; its exponents and sign are 511 values, more than a byte has;
it also learns eps. Here they are 255 values, of which one is 0. It orders peers by when they joined; a peer's number
does as well, and needs no agreement.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache, partial
from typing import ClassVar

import torch
from torch import Tensor

from shoal.compression.codec import field_of
from shoal.learning import Learner
from shoal.protocols.needs import Needs
from shoal.tensors.payload import Content, MalformedPayload, Payload, expect, expect_whole
from shoal.tensors.random import derive, key, normal

ZERO, ABSENT = 0, 255  # 1 to 127: plus, 128 to 254: minus; 255 is never sent, and says in a log that nothing came
LOWEST, HIGHEST = -63, 63
SETTLING = 2  # iterations in which a peer that comes back only listens
DRAWN = 1 << 20  # random numbers that are drawn at a time


@dataclass(frozen=True)
class Log(Payload):
    """The bytes of all iterations: uint8 [iterations, peers, samples]."""

    codes: Tensor


@dataclass(frozen=True)
class OneByte:
    """SPSA steps that all peers take together; on a complete topology, from one common model.

    Attributes:
        samples: directions J that each peer tries in an iteration, and bytes that it sends.
        lr: learning rate for the mean over all peers' directions.
        eps: how far along a direction the loss is evaluated.
        batch: samples of a batch; -1: the run's; None: all of a peer's data.
        check: iterations between two comparisons of models.
        seed: of the directions; the same at all peers.
        timeout: virtual seconds to wait for the others; None waits as long as the world warrants.
    """

    samples: int = 8
    lr: float = 3e-3
    eps: float = 1e-3
    batch: int | None = -1
    check: int = 64
    seed: int = 0
    timeout: float | None = None
    needs: ClassVar[Needs] = Needs(requests=True, neighbours=True, optimizer=False)

    def __post_init__(self) -> None:
        for name, value in (("samples", self.samples), ("check", self.check)):
            if value < 1:
                raise ValueError(f"{name}: got {value}; at least 1 is allowed")
        for name, size in (("lr", self.lr), ("eps", self.eps)):
            if not 0.0 < size < math.inf:
                raise ValueError(f"{name}: got {size}; a number above 0 is allowed")
        if self.timeout is not None and not self.timeout > 0.0:
            raise ValueError(f"timeout: got {self.timeout}; a number of seconds above 0, or none, is allowed")

    async def __call__(self, me: Learner) -> None:
        """Iterate; at first, catch up if others have begun."""
        if len(me.neighbours) != me.peers - 1:
            raise ValueError("topology: everybody has to hear everybody; `complete` is needed")
        self._begin(me)
        me.serve("log", partial(self._answer, me))
        settling = 0
        if me.is_late:
            settling = SETTLING
            await self._catch_up(me)
            me.state["round"] = len(me.state["log"])
        async for t in me.rounds():
            listens = settling > 0 or len(me.state["log"]) > t
            own = torch.zeros(0, dtype=torch.uint8) if listens else await self.codes(me, t)
            heard = await me.exchange(own, t, timeout=self.timeout)
            read = me.read_all(heard, self._read_codes)
            self._merge(me, _with(_row(me, t), t, self._entry(me.peers, {**read, me.id: own})))
            if settling > 0:
                settling -= 1
                await self._catch_up(me)
            if t % self.check == self.check - 1:
                await self._compare(me, t)
        for again in range(1, 4):  # a comparison may itself miss somebody
            await self._compare(me, -again)

    # -- one iteration ---------------------------------------------------------------------------------------------

    async def codes(self, me: Learner, t: int) -> Tensor:
        """The bytes [samples] of this peer in an iteration."""
        peers, numbers = torch.full((self.samples,), me.id), torch.arange(self.samples)
        found = []
        for j, z in enumerate(directions(self.seed, t, peers, numbers, me.model)):
            around = torch.stack([me.model + self.eps * z, me.model - self.eps * z])
            plus, minus = (await me.loss(at=around, batch=me.key("batch", t, j), size=self.batch)).tolist()
            found.append(encode_slope((plus - minus) / (2.0 * self.eps)))
        return torch.tensor(found, dtype=torch.uint8)

    def _read_codes(self, message: Content) -> Tensor:
        """Another peer's bytes of an iteration [samples], or [0] of one that only listens."""
        codes = expect(message, Tensor)
        if codes.dtype != torch.uint8 or codes.shape not in ((self.samples,), (0,)):
            raise MalformedPayload(f"payload: got {codes.dtype} {list(codes.shape)}; uint8 [{self.samples}] is needed")
        return codes

    def _entry(self, peers: int, read: Mapping[int, Tensor]) -> Tensor:
        """What was heard in one iteration, uint8 [peers, samples]."""
        entry = torch.full((peers, self.samples), ABSENT, dtype=torch.uint8)
        for peer, codes in read.items():
            if len(codes):
                entry[peer] = codes
        return entry

    # -- the log ---------------------------------------------------------------------------------------------------

    def _begin(self, me: Learner) -> None:
        """An empty log, and the model that it starts from, unless this peer has them from an earlier life."""
        if "log" not in me.state:
            me.state["log"] = torch.zeros((0, me.peers, self.samples), dtype=torch.uint8)
            me.state["start"] = me.state["agreed"] = me.model
            me.state["agreed at"] = 0

    def _answer(self, me: Learner, sender: int, since: Content) -> Log:
        return Log(me.state["log"][expect_whole("log: the first iteration that is wanted", since) :])

    def _merge(self, me: Learner, other: Tensor) -> None:
        """Take in what another log has; replay from before the first iteration that changes."""
        log: Tensor = me.state["log"]
        union = united(log, other)
        if union.shape == log.shape and torch.equal(union, log):
            return
        known = len(log)
        changed = (union[:known] != log).flatten(1).any(1).nonzero() if known else log.new_zeros(0)
        first = int(changed[0]) if len(changed) else known
        model, start = me.model, known
        if first < known:
            agreed = int(me.state["agreed at"])
            model, start = (me.state["agreed"], agreed) if first >= agreed else (me.state["start"], 0)
        me.state["log"] = union
        me.model = self.replay(model, union[start:], start)

    def replay(self, model: Tensor, log: Tensor, start: int = 0) -> Tensor:
        """The model [d] after a log whose first iteration is number `start`."""
        weights = _Weights(model)
        for t, entry in enumerate(log, start):
            weights = _moved(weights, t, entry.numpy().tobytes(), self.samples, self.lr, self.seed)
        return weights.vector

    async def _catch_up(self, me: Learner) -> None:
        """Ask one of the others, whoever answers first, for what this log may lack."""
        others = list(me.neighbours)
        me.rng("whom to ask", me.lives, len(me.state["log"])).shuffle(others)
        for peer in others:
            if await self._ask(me, [peer]):
                return

    async def _ask(self, me: Learner, peers: list[int]) -> bool:
        """Merge the logs of some peers; whether any of them answered."""
        replies = await me.request_all(peers, 0, "log", timeout=self.timeout)
        logs = me.read_all(replies, partial(self._read, me))
        for codes in logs.values():
            self._merge(me, codes)
        return bool(logs)

    def _read(self, me: Learner, reply: Content) -> Tensor:
        """Another peer's log; each iteration of it has to be replayed, so that there may not be any number of them."""
        codes = field_of(reply, Log, "codes", torch.uint8, [None, me.peers, self.samples])
        if len(codes) > me.planned_rounds:
            raise MalformedPayload(f"log: got {len(codes)} iterations; the run has {me.planned_rounds}")
        return codes

    async def _compare(self, me: Learner, t: int) -> None:
        """Compare digests of models; where they differ, unite the logs."""
        number = t if t >= 0 else int(me.state["round"]) - t
        own = _Weights(me.model).digest
        heard = await me.exchange(own, number, timeout=self.timeout, channel="compare")
        digests = me.read_all(heard, partial(expect, kind=bytes))
        differing = [peer for peer, theirs in digests.items() if theirs != own]
        if differing:
            await self._ask(me, differing)
        else:
            me.state["agreed"], me.state["agreed at"] = me.model, len(me.state["log"])


def _row(me: Learner, t: int) -> Tensor:
    """The log, if need be with iterations of which nothing was heard, up to t."""
    log: Tensor = me.state["log"]
    missing = t + 1 - len(log)
    return log if missing <= 0 else torch.cat([log, log.new_full((missing, *log.shape[1:]), ABSENT)])


def _with(log: Tensor, t: int, entry: Tensor) -> Tensor:
    """A log to which one iteration's bytes are added."""
    added = log.clone()
    added[t] = united(log[t], entry)
    return added


def united(log: Tensor, other: Tensor) -> Tensor:
    """All bytes of two logs; where both have one, the smaller: in whatever order logs meet, they become the same."""
    if len(log) < len(other):
        log, other = other, log
    return torch.cat([torch.minimum(log[: len(other)], other), log[len(other) :]])


class _Weights:
    """A model by value: equal if its bits are."""

    __slots__ = ("digest", "vector")

    def __init__(self, vector: Tensor) -> None:
        self.vector = vector
        self.digest = hashlib.sha256(vector.detach().cpu().numpy().tobytes()).digest()[:8]

    def __hash__(self) -> int:
        return hash(self.digest)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Weights) and torch.equal(self.vector, other.vector)


@lru_cache(maxsize=4)  # in a simulated world equal models move alike, and are computed once
def _moved(weights: _Weights, t: int, entry: bytes, samples: int, lr: float, seed: int) -> _Weights:
    """The model after one iteration's bytes, peer by peer and sample by sample; products and sums round apart."""
    sent = [i for i, code in enumerate(entry) if code != ABSENT]
    x, places = weights.vector.clone(), torch.tensor(sent, dtype=torch.int64)
    drawn = directions(seed, t, places // samples, places % samples, x)
    for i, z in zip(sent, drawn, strict=True):
        x.sub_(z.mul_(lr / len(sent) * SLOPES[entry[i]]))
    return _Weights(x)


def directions(seed: int, t: int, peers: Tensor, numbers: Tensor, like: Tensor) -> Iterator[Tensor]:
    """The directions [d] of iteration t for some peers [n] and samples [n], one after the other, as `like`."""
    keys, d = derive(key(seed, "direction", t), peers, numbers), like.numel()
    for some in keys.split(max(1, DRAWN // max(1, d))):
        yield from normal(some, d, dtype=like.dtype, device=like.device)


# -- bytes -------------------------------------------------------------------------------------------------------------


def encode_slope(rho: float) -> int:
    """The byte of a slope, 0 to 254: within e^(-63/16) to e^(63/16), right to a factor of e^(1/32).

    Raises:
        ValueError: it is NaN or infinite.
    """
    if not math.isfinite(rho):
        raise ValueError(f"rho: got {rho}; a finite number is needed")
    if rho == 0.0:
        return ZERO
    q = min(max(round(16.0 * math.log(abs(rho))), LOWEST), HIGHEST)
    return q + 64 if rho > 0.0 else q + 191


def decode_slope(code: int) -> float:
    """What a byte from 0 to 254 stands for."""
    return SLOPES[code]


def _slopes() -> list[float]:
    """All slopes, each the nearest double: the same on every machine, as the exponential of a C library is not."""
    sizes = [float((Decimal(q) / 16).exp()) for q in range(LOWEST, HIGHEST + 1)]
    return [0.0, *sizes, *(-size for size in sizes)]


SLOPES = _slopes()
