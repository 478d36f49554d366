"""MoDeST: federated averaging without a server, over samples that every peer works out for itself.

    sample k:   peers that are in and gave a sign of life in the last `window` rounds, in the order of MD5(id-k),
                pinged in this order: the first s that answer
    round k:    those of sample k train, and send their model to the first a that answer of sample k + 1;
                these average, unweighted, floor(s sf) models, or what has come in time, and send the average to the s
                that answer of sample k + 1

M. de Vos et al., "MoDeST: Bridging the Gap between Federated and Decentralized Learning with Decentralized Sampling",
2023 (arXiv 2302.13837). Models travel with their sender's view of who is here; how samples are drawn and who joins
becomes known is in `sampling`.

What the publication leaves open, or we chose:

* A peer that nobody has asked for half a window joins again, by the same counter, lest it drops out of the views.
* A round that comes to nothing, since all who had its models are gone, is taken up again: who has heard of no progress
  for two timeouts sends once more what it has sent last, to more aggregators each time; at first those of the latest
  round do, then those of earlier ones, too. Whatever is repeated is ignored.
* A peer that nobody answers does not go on alone.
* The end: an aggregator of the last round hands the result to everybody who is there; if sf < 1 and a > 1, two may have
  averaged different models, and each keeps its own. Who misses that, being away, learns it from whom it tells that it
  joins; who hears from nobody for `patience` gives up.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias

from torch import Tensor

from shoal.aggregation import mean
from shoal.engine import PeerLost
from shoal.learning import Learner
from shoal.protocols.gossip.sampling import Sampler, receive
from shoal.protocols.gossip.views import View
from shoal.protocols.needs import Needs, check_steps
from shoal.tensors.payload import Content, MalformedPayload, Payload, expect_whole

Stage: TypeAlias = Literal["idle", "train", "trained", "result"]
"""What is to be done with the model of the present round: nothing, train it, send it trained, hand it to all."""


@dataclass(frozen=True)
class Sent(Payload, name="modest.Sent"):
    """A packed model and its sender's view: that of round `index` to be trained, or one trained in the round before."""

    index: int
    model: Content
    view: Tensor


@dataclass(frozen=True)
class MoDeST:
    """Each round: a sample trains, and a few of the next sample average. Buffers are averaged as everything else.

    A peer's round is the last one whose average it has got to know, and peers go from one such round to the next.

    Attributes:
        sample: peers s that train in a round, at least 1.
        aggregators: how many a of them average, from 1 to `sample`.
        success: share sf in (0, 1] of the sample's models that an aggregator waits for, rounded down; below 1, a round
            does not wait for the last ones.
        window: rounds for which a sign of life counts, at least 1.
        steps: local steps of the run's optimizer, whose memory is not carried over.
        ping: seconds to wait for a sign of life.
        timeout: seconds from the first model on after which an aggregator goes on with those that have come.
        patience: seconds without a word from anybody after which a peer gives up.
    """

    sample: int = 10
    aggregators: int = 2
    success: float = 0.8
    window: int = 20
    steps: int = 5
    ping: float = 2.0
    timeout: float = 30.0
    patience: float = 300.0
    needs: ClassVar[Needs] = Needs(asynchrony=True, requests=True, sampled=True, packs="model")

    def __post_init__(self) -> None:
        check_steps(self.steps, self.timeout)
        if self.sample < 1 or self.window < 1:
            raise ValueError(f"sample, window: got {self.sample}, {self.window}; numbers >= 1 are allowed")
        if not 1 <= self.aggregators <= self.sample:
            raise ValueError(f"aggregators: got {self.aggregators}; 1 to the {self.sample} of a sample are allowed")
        if not 0.0 < self.success <= 1.0:
            raise ValueError(f"success: got {self.success}; a number in (0, 1] is allowed")
        if not (self.ping > 0.0 and self.patience > 0.0):
            raise ValueError(f"ping, patience: got {self.ping}, {self.patience}; seconds above 0 are allowed")

    async def __call__(self, me: Learner) -> None:
        """What one peer does."""
        await _Node(self, me).run()


@dataclass(eq=False)
class _Gathering:
    """The models that an aggregator has got for one round, by sender, and the task that will not wait for more."""

    models: dict[int, Tensor]
    timer: asyncio.Task[None]


class _Node:
    """One life of one peer. What must survive it lies in `me.state`: the model, `index`, `stage` and `view`."""

    def __init__(self, settings: MoDeST, me: Learner) -> None:
        self.settings, self.me = settings, me
        self.rounds = me.rounds()
        self.last = self.rounds.count + 1  # the index of the result: a round's average begins the next round
        self.sampler = Sampler(
            me,
            size=settings.sample,
            window=settings.window,
            timeout=settings.ping,
            last=self.last,
            kept=me.state.get("view"),
        )
        self.view = self.sampler.view
        self.offers: asyncio.Queue[tuple[int, Stage, Tensor] | None] = asyncio.Queue()
        self.work: asyncio.Task[None] | None = None
        self.gathered: dict[int, _Gathering] = {}
        self.averaged = 0  # the latest round for which it was aggregator
        self.lost = 0  # how many of the latest rounds seem to have been lost, for nothing moves
        self.promised = False  # whether an aggregator is going to bring the result

    @property
    def index(self) -> int:
        """The round whose beginning, the average of the round before, is the latest that it has got."""
        return int(self.me.state.get("index", 1))

    @property
    def stage(self) -> Stage:
        """What is to be done in that round."""
        stage: Stage = self.me.state.get("stage", "idle")
        return stage

    def keep(self, index: int, stage: Stage, model: Tensor) -> None:
        """Change what survives; the next commit makes it durable."""
        if stage == "train":
            self.view.touch(self.me.id, index)
        self.sampler.over = index == self.last
        state = self.me.state
        state["model"], state["index"], state["stage"], state["view"] = model, index, stage, self.view.tensor()

    # -- rounds ----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """From joining to the end of the last round."""
        me = self.me
        self.listen()
        begins = self.index == 1 and me.id in self.sampler.candidates(1)[: self.settings.sample]
        self.keep(self.index, "train" if begins and self.stage == "idle" else self.stage, me.model)
        await me.commit()
        watch = me.spawn(self.watch())
        async for _ in self.rounds:
            self.go_on()
            news = await self.news()
            if news is None:
                break
            await self.halt()
            self.keep(*news)
            self.rounds.skip_to(self.index - 1)
        watch.cancel()
        await self.halt()
        if self.stage == "result":
            await self.hand_out()

    async def news(self) -> tuple[int, Stage, Tensor] | None:
        """The average of a round later than any before, or None if there is nobody any more."""
        while True:
            offer = await self.offers.get()
            if offer is None or offer[0] > self.index:
                return offer
            if offer[:2] == (self.index, "train") and self.stage == "idle":
                await self.halt()
                self.keep(*offer)
                self.go_on()

    def go_on(self) -> None:
        """Do what is to be done in this round."""
        if self.stage in ("train", "trained"):
            self.work = self.me.spawn(self.take_part())

    async def halt(self) -> None:
        """End what is being done; the model that was trained is left half-done, to be replaced."""
        if self.work is not None and not self.work.done():
            self.work.cancel()
            await asyncio.wait([self.work])

    async def take_part(self) -> None:
        """Train, if that is not done yet, and send the model to the aggregators."""
        me, index = self.me, self.index
        if self.stage == "train":
            me.reset_optimizer()
            await me.train(self.settings.steps)
            self.keep(index, "trained", me.model)
            await me.commit()
        chosen = await self.sampler.live(index + 1, self.settings.aggregators + self.lost)
        if self.outdated(index):
            return
        model = await self.send(chosen, "trained", index + 1, me.model)
        if model is not None:
            self.gather(me.id, index + 1, model)

    def outdated(self, index: int) -> bool:
        """Whether a round is over: others have sent models of the next one, and these are not lost by all signs."""
        return index < self.index or index + 1 + self.lost < self.view.latest

    async def send(self, chosen: list[int], channel: str, index: int, model: Tensor) -> Tensor | None:
        """Send a model to those chosen; what this peer itself would receive, if it is among them."""
        me = self.me
        packed = await me.pack(model, channel)
        sent = Sent(index, packed, self.view.tensor())
        for peer in chosen:
            if peer != me.id:
                me.send(peer, sent, channel)
        return me.unpack(packed) if me.id in chosen else None

    # -- averages --------------------------------------------------------------------------------------------

    def gather(self, sender: int, index: int, model: Tensor) -> None:
        """A model that was trained in the round before `index` has come to its aggregator."""
        if index <= self.averaged or index < self.index:
            return
        gathering = self.gathered.get(index)
        if gathering is None:
            gathering = self.gathered[index] = _Gathering({}, self.me.spawn(self.expire(index)))
        gathering.models.setdefault(sender, model)
        if len(gathering.models) >= self.enough(index - 1):
            gathering.timer.cancel()
            self.average(index)

    def enough(self, index: int) -> int:
        """How many models of a round an aggregator waits for."""
        there = min(self.settings.sample, len(self.sampler.candidates(index)))
        return max(1, int(there * self.settings.success + 1e-9))  # 0.29 * 100 is 28.999...

    async def expire(self, index: int) -> None:
        """Wait no longer."""
        await self.me.sleep(self.settings.timeout)
        self.average(index)

    def average(self, index: int) -> None:
        """Average what has come, and begin the next round with it."""
        models = self.gathered[index].models
        for older in [i for i in self.gathered if i <= index]:
            if older != index:
                self.gathered[older].timer.cancel()
            del self.gathered[older]
        self.averaged = index
        if index < self.index:
            return
        model = mean([models[peer] for peer in sorted(models)])
        self.offers.put_nowait((index, "result" if index == self.last else "idle", model))
        if index < self.last:
            self.me.spawn(self.hand_on(index, model))

    async def hand_on(self, index: int, model: Tensor) -> None:
        """Send an average to the sample that is to train it."""
        chosen = await self.sampler.live(index, self.settings.sample)
        if self.outdated(index) or self.alone(chosen):
            return
        own = await self.send(chosen, "average", index, model)
        if own is not None:
            self.offers.put_nowait((index, "train", own))

    def alone(self, chosen: list[int]) -> bool:
        """Whether nobody else answered for a sample, though others should be here: no way to go on learning."""
        return chosen == [self.me.id] and self.settings.sample > 1 and bool(self.sampler.others())

    async def hand_out(self) -> None:
        """Bring the result to everybody who is there and has not got it, a few at a time."""
        me, settings = self.me, self.settings
        replies = await me.request_all(self.sampler.others(), None, "over", timeout=settings.ping)
        needy = [peer for peer, needs in replies.items() if needs is True]
        sent = Sent(self.last, await me.pack(me.model, "average"), self.view.tensor())
        for i in range(0, len(needy), settings.sample):
            await me.request_all(needy[i : i + settings.sample], sent, "result", timeout=settings.timeout)

    # -- what others send ------------------------------------------------------------------------------------

    def listen(self) -> None:
        """Answer and receive."""
        me = self.me
        self.sampler.listen()
        me.serve("over", self.on_over)
        me.serve("fetch", self.on_fetch)
        me.serve("result", self.on_result)
        me.spawn(receive(me, "trained", self.read, self.on_trained))
        me.spawn(receive(me, "average", self.read, self.on_average))

    def on_trained(self, sender: int, got: tuple[int, Tensor, View]) -> None:
        """A model to be averaged."""
        index, model, view = got
        self.sampler.met_with(sender, index, view)
        self.gather(sender, index, model)

    def on_average(self, sender: int, got: tuple[int, Tensor, View]) -> None:
        """A model to be trained."""
        index, model, view = got
        self.sampler.met_with(sender, index, view)
        self.offers.put_nowait((index, "idle" if index == self.last else "train", model))

    def on_over(self, sender: int, nothing: Any) -> bool:
        """An aggregator has the result: whether it is to bring it."""
        needs = self.index < self.last and not self.promised
        self.promised = self.promised or needs
        return needs

    async def on_fetch(self, sender: int, nothing: Any) -> Sent | None:
        """Somebody wants the result."""
        if self.index < self.last:
            return None
        return Sent(self.last, await self.me.pack(self.me.model, "average"), self.view.tensor())

    def on_result(self, sender: int, payload: Any) -> None:
        """The result."""
        index, model, _ = self.read(payload)
        if index != self.last:
            raise MalformedPayload(f"index: got {index}; the result's is {self.last}")
        self.offers.put_nowait((index, "idle", model))

    # -- those whom nobody asks ------------------------------------------------------------------------------

    async def watch(self) -> None:
        """Join, now and then again, and see how far the others are."""
        me, settings = self.me, self.settings
        pause, seen, since, acted = settings.ping / 8, 1, me.now(), me.now()
        while True:
            over = [peer for peer, known in (await self.sampler.join()).items() if known.over]
            if over and await self.fetch(over):
                return
            now, latest = me.now(), self.view.latest
            # It grows by little, lest one round that takes long makes this peer miss many that are fast again.
            if latest > seen:
                pause = min((now - since) / (latest - seen) * settings.window / 2, 1.5 * pause)
                seen, since, acted = latest, now, now
                self.lost = 0
            else:
                pause *= 1.1
            pause = min(max(pause, settings.ping / 64), settings.timeout)
            if now - self.sampler.heard >= settings.patience:
                self.offers.put_nowait(None)
                return
            if now - acted >= 2 * settings.timeout:
                acted = now
                self.take_up()
            while (rest := max(self.sampler.met, now) + pause - me.now()) > 0.0:
                await me.sleep(rest)

    async def fetch(self, peers: list[int]) -> bool:
        """Get the result from one of those who have it; whether that went well."""
        for peer in peers:
            try:
                async with asyncio.timeout(self.settings.timeout):
                    payload = await self.me.request(peer, None, "fetch")
            except (PeerLost, TimeoutError):
                continue
            for index, model, _ in self.me.read_all({peer: payload}, self.read).values():
                if index == self.last:
                    self.offers.put_nowait((index, "idle", model))
                    return True
        return False

    def take_up(self) -> None:
        """Nothing moves: those in the latest round try again."""
        busy = self.work is not None and not self.work.done()
        if not busy and not self.outdated(self.index):
            self.go_on_again()
        self.lost = 2 * self.lost + 1  # if that is of no use, those who were in earlier rounds have to do it

    def go_on_again(self) -> None:
        """Send once more what was sent last."""
        if self.stage == "trained":
            self.go_on()
        elif self.stage == "idle" and self.index > 1:
            self.work = self.me.spawn(self.hand_on(self.index, self.me.model))
        elif self.stage == "idle":
            self.work = self.me.spawn(self.begin())

    async def begin(self) -> None:
        """Nobody of the first sample has begun: train in its stead, if this peer is among the first that answer."""
        chosen = await self.sampler.live(1, self.settings.sample)
        if self.me.id in chosen and not self.alone(chosen):
            self.offers.put_nowait((1, "train", self.me.model))

    def read(self, payload: Any) -> tuple[int, Tensor, View]:
        """Index, model and view of a `Sent`, which anybody may have sent."""
        if not isinstance(payload, Sent):
            raise MalformedPayload(f"payload: got {type(payload).__name__}; a Sent is needed")
        index = expect_whole("index", payload.index, high=self.last)
        if index < 2:
            raise MalformedPayload(f"index: got {index}; 2 to {self.last} are allowed")
        return index, self.me.unpack(payload.model), View.read(payload.view, self.me.peers, self.last)
