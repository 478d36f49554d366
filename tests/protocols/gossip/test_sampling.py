"""Samples: the first in order that answer, in few waits; who comes is counted in when a view is merged next."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from shoal import Run
from shoal.engine import Crash, Link
from shoal.learning import Learner
from shoal.protocols import MoDeST, Needs
from shoal.protocols.gossip.sampling import Here, Sampler
from shoal.protocols.gossip.views import View, hash_order

from .. import runs


class Sampling:
    """Peers that answer, of which one does something with its sampler at 1 s."""

    needs: ClassVar[Needs] = Needs(asynchrony=True, sampled=True)
    steps = 0

    def __init__(self, does: Any, who: int = 0) -> None:
        self.does, self.who = does, who

    async def __call__(self, me: Learner) -> None:
        sampler = Sampler(me, size=5, window=20, timeout=2.0, last=100)
        sampler.listen()
        await me.sleep(1.0)
        if me.id == self.who:
            await self.does(me, sampler)
        await me.sleep(100.0)


def sampling(does: Any, peers: int, **settings: Any) -> Run:
    task = runs.regression(peers)
    links = [Link(latency=0.01, detection=30.0)] * peers
    pieces = runs.partition(task, [1] * peers)
    return runs.run(Sampling(does), task, pieces, network=links, eval_peers=1, trace=True, **settings)


@pytest.mark.parametrize("count", [1, 2, 10])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.8, 1.0])
def test_a_sample_is_the_first_in_order_that_answer(count: int, share: float) -> None:
    """Found in as many waits as the logarithm of those who are gone, not one each."""
    peers = 100
    gone = set(hash_order(peers, 0)[: int(share * peers)]) - {0}
    found: list[int] = []
    took: list[float] = []

    async def draw(me: Learner, sampler: Sampler) -> None:
        began = me.now()
        found.extend(await sampler.live(7, count))
        took.append(me.now() - began)

    run = sampling(draw, peers, faults=[Crash(0.5, i) for i in sorted(gone)])
    order = hash_order(peers, 7)
    alive = [i for i in order if i not in gone]
    assert found == alive[:count]
    asked = [e["to"] for e in run.trace or () if e["event"] == "send" and e["channel"] == "ping" and e["from"] == 0]
    assert asked == [i for i in order if i != 0][: len(asked)]  # in this order
    waits = {0.0: 0, 0.5: 3, 0.8: 4, 1.0: 7}[share]
    assert took[0] <= waits * 2.0 + 0.1
    if not gone:
        assert len(asked) <= count


def test_who_joins_is_counted_in_when_a_view_is_merged_next() -> None:
    """Its sign of life is one of the round in which it came, and its counter is taken over."""
    seen: list[tuple[int, int, bool]] = []
    counted: list[list[int]] = []

    async def meet(me: Learner, sampler: Sampler) -> None:
        sampler.view.touch(0, 50)
        sampler.view.admit(3, 7, joined=False)
        answer = sampler._on_join(3, Here(2, 8))
        assert (answer.round, answer.counter, answer.over) == (50, 8, False)
        for _ in range(2):
            seen.append((sampler.view.active[3], sampler.view.counter[3], sampler.view.joined[3]))
            counted.append(sampler.candidates(60))
            sampler.met_with(1, 50, View.start(me.peers))

    sampling(meet, 5)
    assert seen == [(0, 7, False), (50, 8, True)]
    assert [3 in candidates for candidates in counted] == [False, True]


def test_who_is_known_to_have_left_by_a_larger_counter_is_told_the_next_one() -> None:
    async def meet(me: Learner, sampler: Sampler) -> None:
        sampler.view.admit(3, 7, joined=False)
        assert sampler._on_join(3, Here(0, 1)).counter == 8
        assert sampler._on_join(3, Here(0, 7)).counter == 8
        assert sampler._on_join(2, Here(0, 1)).counter == 1

    sampling(meet, 5)


def test_a_peer_that_others_say_has_left_stays() -> None:
    async def hear(me: Learner, sampler: Sampler) -> None:
        other = View.start(me.peers)
        other.admit(0, 9, joined=False)
        sampler.met_with(1, 4, other)
        assert (sampler.view.counter[0], sampler.view.joined[0]) == (10, True)
        assert sampler.view.active[1] == 4

    sampling(hear, 5)


def test_peers_that_are_seldom_sampled_stay_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    """60 rounds of 3 out of 100 with a window of 10: most have not taken part for longer than that."""
    samplers: list[Sampler] = []
    listen = Sampler.listen

    def noted(self: Sampler) -> None:
        samplers.append(self)
        listen(self)

    monkeypatch.setattr(Sampler, "listen", noted)
    task = runs.regression(100)
    protocol = MoDeST(3, 2, success=1.0, window=10, steps=2)
    pieces = runs.partition(task, [1] * 100)
    run = runs.run(protocol, task, pieces, rounds=60, network=[Link(latency=0.01)] * 100, eval_peers=1, trace=True)
    taken = {e["from"] for e in run.trace or () if e["channel"] == "trained" and e["event"] == "send"}
    assert len(taken) > 70  # of all, 84 in expectation if everybody is a candidate in every round
    known = max((sampler.view for sampler in samplers), key=lambda view: sum(view.active))
    assert known.latest == 61
    assert sum(active >= 61 - 10 for active in known.active) > 80
