"""MoDeST: everybody draws the same sample, its averages are those of federated averaging, and it goes on when most are
gone."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from shoal import Run, simulate
from shoal.aggregation import mean
from shoal.engine import Crash, Device, Join, Leave, Link, Partition, PeerLost, Restart
from shoal.engine.faults import Fault
from shoal.learning import Learner, Task
from shoal.optim import SGD
from shoal.protocols import MoDeST, Needs
from shoal.protocols.gossip.modest import Sent
from shoal.protocols.gossip.sampling import Here, Known
from shoal.protocols.gossip.views import View, hash_order
from tests.restatements import modest as restated

from .. import runs

LR = 0.1
LAN = [Link(latency=0.001)]


class Watched:
    """The protocol, its peers and what they receive as models of samples: (sender, receiver, channel, index)."""

    needs: ClassVar[Needs] = MoDeST.needs

    def __init__(self, protocol: MoDeST, monkeypatch: pytest.MonkeyPatch) -> None:
        self.protocol, self.steps = protocol, protocol.steps
        self.peers: dict[int, Learner] = {}
        self.sent: list[tuple[float, int, int, str, Any]] = []
        send = Learner.send

        def noted(me: Learner, to: int, payload: Any, channel: str = "data") -> None:
            self.sent.append((me.now(), me.id, to, channel, payload))
            send(me, to, payload, channel)

        monkeypatch.setattr(Learner, "send", noted)

    async def __call__(self, me: Learner) -> None:
        self.peers[me.id] = me
        await self.protocol(me)

    def models(self, channel: str, index: int) -> set[tuple[int, int]]:
        """Who sent a model of a channel and index to whom."""
        return {(a, b) for _, a, b, c, x in self.sent if c == channel and x.index == index}

    def trainers(self, round: int) -> set[int]:
        """Who sent a model trained in a round."""
        return {a for a, _ in self.models("trained", round + 1)}

    def view(self, peer: int) -> View:
        """A peer's view as it was kept last."""
        kept = self.peers[peer].state["view"]
        return View.read(kept, kept.shape[1], 1_000_000)


def modest(protocol: Any, peers: int = 12, **settings: Any) -> Run:
    """A run on linear regression in float64, with whole-shard steps."""
    task = runs.regression(5 * peers)
    options: dict[str, Any] = {"network": LAN * peers, "batch": 0, "rounds": 6, "eval_peers": peers}
    return runs.run(protocol, task, runs.partition(task, [5] * peers), SGD.rule(LR), **{**options, **settings})


def digits(protocol: Any, **settings: Any) -> Run:
    """A run on digits, non-iid."""
    options: dict[str, Any] = {"task": "digits", "peers": 60, "partition": "dirichlet:0.5", "lr": 0.2, "seed": 5}
    return simulate(protocol, **{**options, "eval_peers": 60, "workers": 1, **settings})


def trace(peers: int, rounds: int, size: int, aggregators: int, steps: int) -> list[restated.Round]:
    """What the restatement does with the same task."""
    task = runs.regression(5 * peers)
    data, pieces = runs.partition(task, [5] * peers)

    def train(node: int, round: int, model: restated.Vector) -> restated.Vector:
        w = torch.tensor(model, dtype=torch.float64)
        for _ in range(steps):
            w = w - LR * runs.gradient(w, data, pieces[node])
        return tuple(w.tolist())

    start = tuple(runs.start(task).tolist())
    log, _ = restated.trace(start, peers, train, rounds, size=size, aggregators=aggregators, window=rounds)
    return log


def loss_of(w: Tensor, task: Task) -> float:
    """The test loss of a vector."""
    x, y = task.dataset.test.inputs, task.dataset.test.targets
    error = x @ w[: runs.WIDTH * runs.OUTPUTS].view(runs.OUTPUTS, runs.WIDTH).T + w[-runs.OUTPUTS :] - y
    return float(error.square().sum(1).mean() / 2)


def final(run: Run) -> Tensor:
    """The one model that everybody has in the end."""
    models = runs.stack(run)
    assert all(torch.equal(row, models[0]) for row in models)
    return models[0]


# -- without failures


@pytest.mark.parametrize(("size", "aggregators"), [(5, 1), (5, 2), (8, 5), (12, 12)])
def test_without_failures_it_is_the_restatement(size: int, aggregators: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who trains, who aggregates, who gets the average, and what that is."""
    rounds, steps = 6, 3
    watched = Watched(MoDeST(size, aggregators, success=1.0, window=rounds, steps=steps), monkeypatch)
    run = modest(watched, rounds=rounds)
    expected = trace(12, rounds, size, aggregators, steps)
    for entry, after in zip(expected, [*expected[1:], None], strict=True):
        pairs = {(i, j) for i in entry.participants for j in entry.aggregators if i != j}
        assert watched.models("trained", entry.number + 1) == pairs
        if after is not None:
            pairs = {(j, i) for j in entry.aggregators for i in after.participants if i != j}
            assert watched.models("average", after.number) == pairs
    average = torch.tensor(expected[-1].average, dtype=torch.float64)
    torch.testing.assert_close(final(run), average, rtol=1e-13, atol=1e-14)


def test_each_rounds_average_is_measured() -> None:
    """A peer's model at the end of a round is the average of that round, whether it trained in it or not."""
    run = modest(MoDeST(5, 2, success=1.0, window=9, steps=2), rounds=5, evaluate=1)
    task = runs.regression(60)
    for entry in trace(12, 5, 5, 2, 2):
        loss = loss_of(torch.tensor(entry.average, dtype=torch.float64), task)
        rows = [row for row in run.metrics if row[1] == entry.number and row[4] == "loss"]
        assert len(rows) >= 5
        assert all(row[5] == pytest.approx(loss, rel=1e-12) for row in rows)
        assert all(row[3] >= 0 for row in rows)  # there is no mean over peers of different rounds


class Served:
    """Federated averaging by a server, with given samples and unweighted means."""

    needs: ClassVar[Needs] = Needs(server=True)

    def __init__(self, samples: Sequence[Sequence[int]], steps: int) -> None:
        self.samples, self.steps = samples, steps

    async def __call__(self, me: Learner) -> None:
        if not me.is_server:
            me.serve("train", partial(self.train, me))
            return
        async for r in me.rounds():
            models = await me.request_all(self.samples[r], me.model, "train")
            me.model = mean([models[i] for i in sorted(models)])

    async def train(self, me: Learner, sender: int, model: Tensor) -> Tensor:
        me.model = model
        me.reset_optimizer()
        await me.train(self.steps)
        return me.model


@pytest.mark.parametrize("aggregators", [1, 3])
def test_the_models_are_bit_equal_to_federated_averaging_over_the_same_samples(aggregators: int) -> None:
    """Real stochastic gradients with momentum, in float32."""
    settings: dict[str, Any] = {"optimizer": "sgd:lr=0.1,momentum=0.9", "lr": None, "batch": 8, "rounds": 7}
    run = digits(MoDeST(10, aggregators, success=1.0, steps=4), **settings)
    samples = [hash_order(60, k)[:10] for k in range(1, 8)]
    server = digits(Served(samples, steps=4), **settings)
    assert torch.equal(final(run), final(server))
    assert final(run).dtype == torch.float32


@pytest.mark.parametrize(("size", "aggregators"), [(10, 1), (10, 4), (3, 3)])
def test_a_round_takes_twice_sample_times_aggregators_transfers(size: int, aggregators: int) -> None:
    """Less what a peer would send to itself; the last average goes to everybody, once."""
    rounds = 5
    run = digits(MoDeST(size, aggregators, success=1.0, steps=0), rounds=rounds)
    channels = run.info["bytes"]["channels"]
    samples = [hash_order(60, k)[:size] for k in range(1, rounds + 2)]
    pairs = list(pairwise(samples))
    itself = sum(len(set(now) & set(after[:aggregators])) for now, after in pairs)
    assert channels["trained"]["messages"] == rounds * size * aggregators - itself
    assert channels["average"]["messages"] == (rounds - 1) * (size * aggregators - aggregators)
    assert channels["result"]["messages"] == 2 * (60 - aggregators)  # each is acknowledged


def test_nobody_waits_for_the_share_of_the_sample_that_is_slow() -> None:
    """sf = 0.6 of 5 are 3: two whose steps take a minute do not hold up the others, and are told to stop."""
    first = hash_order(12, 1)[:5]
    slow = [i for i in range(12) if i in first[3:]]
    devices = [Device(60.0 if i in slow else 0.01) for i in range(12)]
    run = modest(MoDeST(5, 1, success=0.6, steps=2), rounds=1, devices=devices)
    assert run.info["virtual_seconds"] < 1.0
    waiting = modest(MoDeST(5, 1, success=1.0, steps=2, timeout=7.0), rounds=1, devices=devices)
    assert 7.0 < waiting.info["virtual_seconds"] < 8.0  # then it goes on with what has come
    assert torch.equal(final(run), final(waiting))


def test_a_newer_round_cancels_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer in the first two samples that is slow in the first one trains from the second one's average."""
    both = next(i for i in hash_order(12, 1)[:6] if i in hash_order(12, 2)[:6])
    devices = [Device(0.5 if i == both else 0.001) for i in range(12)]
    watched = Watched(MoDeST(6, 2, success=0.8, steps=2), monkeypatch)
    modest(watched, rounds=2, devices=devices)
    assert both not in watched.trainers(1)
    assert len(watched.trainers(1)) == 5
    assert both in {to for _, to in watched.models("average", 2)} | {a for a, _ in watched.models("average", 2)}


def test_models_that_come_again_are_ignored() -> None:
    """Nearly every message comes twice, the second time when the sample has trained, and sent, already."""
    plain, twice = (
        modest(
            MoDeST(5, 2, success=1.0, steps=2),
            rounds=8,
            network=[Link(latency=0.05, duplication=share)] * 12,
            batch=2,
        )
        for share in (0.0, 0.99)
    )
    assert torch.equal(final(plain), final(twice))
    counts = [run.info["bytes"]["channels"]["trained"] for run in (plain, twice)]
    assert counts[0]["messages"] == counts[1]["messages"]
    assert counts[1]["duplicated"] > 0.9 * counts[1]["sent"]


def test_all_end_with_the_result_however_few_were_sampled() -> None:
    run = modest(MoDeST(2, 1, success=1.0), 30, rounds=3)
    assert len(run.models) == 30
    final(run)


@pytest.mark.parametrize("codec", ["bf16", "int8"])
def test_what_is_sent_can_be_packed(codec: str) -> None:
    """All of a sample begin from what was packed, also who packed it."""
    run = digits(MoDeST(8, 1, success=1.0), rounds=15, codec=codec)
    plain = digits(MoDeST(8, 1, success=1.0), rounds=15)
    assert run.info["bytes"]["channels"]["trained"]["sent"] < 0.55 * plain.info["bytes"]["channels"]["trained"]["sent"]
    assert run.final() == pytest.approx(plain.final(), abs=0.05)


def test_the_same_seed_gives_the_same_bytes() -> None:
    settings: dict[str, Any] = {"rounds": 12, "network": "mobile", "faults": "random:crashes=0.3,empty=0.5"}
    one, same, other = (digits(MoDeST(6, 2, timeout=3.0), seed=seed, **settings) for seed in (1, 1, 2))
    assert one.metrics_csv() == same.metrics_csv()
    assert one.events == same.events
    assert one.info["bytes"] == same.info["bytes"]
    assert all(torch.equal(one.models[i], same.models[i]) for i in one.models)
    assert one.metrics_csv() != other.metrics_csv()


# -- comings and goings


def test_rounds_continue_and_learning_goes_on_when_four_fifths_crash() -> None:
    rounds, at = 60, 1.0
    gone = set(hash_order(60, 0)[:48])
    run = digits(MoDeST(), rounds=rounds, faults=[Crash(at, i) for i in sorted(gone)], evaluate=1)
    accuracy, time = run.curve(), run.curve(against="time")
    before = int((time[:, 0] < at).sum())
    assert 15 <= accuracy[before - 1, 0] <= 25
    assert accuracy[-1, 0] == rounds
    errors = 1.0 - accuracy[:, 1]
    assert errors[-5:].mean() < 2 / 3 * errors[before - 5 : before].mean()
    # those who are gone drop out of the views: rounds are as fast as ever again
    ordinary = (time[before - 1, 0] - time[0, 0]) / accuracy[before - 1, 0]
    assert time[-1, 0] - time[-6, 0] < 2 * 5 * ordinary
    assert set(run.models) == set(range(60)) - gone


@pytest.mark.parametrize("aggregators", [1, 2])
def test_a_round_whose_models_are_all_gone_is_taken_up_again(aggregators: int) -> None:
    """The whole first sample crashes in the middle of its training."""
    sample = hash_order(12, 1)[:4]
    protocol = MoDeST(4, aggregators, steps=10, timeout=5.0)
    run = modest(protocol, rounds=5, faults=[Crash(0.05, i) for i in sample])
    assert run.info["rounds"] == 5
    assert len(run.models) == 8
    final(run)


def test_if_all_who_had_the_latest_models_are_gone_those_of_earlier_rounds_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Sample 2 and the aggregator of its models crash as that one is about to send their average to sample 3."""
    protocol, links = MoDeST(4, 1, success=1.0, timeout=5.0), [Link(latency=0.01)] * 30
    dry = Watched(protocol, monkeypatch)
    modest(dry, 30, rounds=3, network=links)
    at = min(time for time, *_, channel, x in dry.sent if channel == "average" and x.index == 3) - 0.005
    gone = {*hash_order(30, 2)[:4], hash_order(30, 3)[0]}
    watched = Watched(protocol, monkeypatch)
    run = modest(watched, 30, rounds=8, network=links, faults=[Crash(at, i) for i in sorted(gone)])
    assert run.info["rounds"] == 8
    assert set(run.models) == set(range(30)) - gone
    final(run)
    assert not {a for a, _ in watched.models("average", 3)} & gone


def test_aggregators_that_answer_and_do_nothing_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both of those of round 1 are alive, and no model that they send arrives."""
    mute = hash_order(12, 2)[:2]
    watched = Watched(MoDeST(5, 2, timeout=5.0), monkeypatch)
    send = Learner.send

    def lost(me: Learner, to: int, payload: Any, channel: str = "data") -> None:
        if channel not in ("average", "trained") or me.id not in mute:
            send(me, to, payload, channel)

    monkeypatch.setattr(Learner, "send", lost)
    run = modest(watched, rounds=8)
    assert run.info["rounds"] == 8
    assert {a for a, _ in watched.models("average", 2)}.isdisjoint(mute)
    assert len(watched.models("average", 2)) >= 4


def test_who_joins_late_takes_part_and_gets_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(MoDeST(4, 1, window=5), monkeypatch)
    run = modest(watched, rounds=60, faults=[Join(1.0, 3)])
    trained = [time for time, a, *_ in watched.sent if a == 3]
    assert trained
    assert min(trained) > 1.0
    assert len(run.models) == 12
    final(run)


def test_who_comes_when_all_is_over_gets_the_result_too() -> None:
    run = modest(MoDeST(4, 2, success=1.0), rounds=4, faults=[Join(100.0, 3), Crash(0.01, 5), Restart(100.0, 5)])
    assert len(run.models) == 12
    final(run)
    assert 100.0 < run.info["virtual_seconds"] < 101.0


def test_who_leaves_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """It tells as many as a sample, and these the others; whoever has been out of it learns it later."""
    watched = Watched(MoDeST(6, 2), monkeypatch)
    run = modest(watched, rounds=30, faults=[Leave(0.3, 4)], trace=True)
    said = [to for _, a, to, channel, _ in watched.sent if channel == "leave" and a == 4]
    assert len(set(said)) == 6
    assert all(not watched.view(i).joined[4] for i in range(12) if i != 4)
    assert all(watched.view(i).joined[j] for i in range(12) for j in range(12) if 4 not in (i, j))
    pings = [e["time"] for e in run.trace or () if e["channel"] == "ping" and e["event"] == "send" and e["to"] == 4]
    assert not [time for time in pings if time > 0.6]
    assert run.info["virtual_seconds"] > 1.0


@pytest.mark.parametrize("empty", [False, True])
@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("at", [0.02, 0.0545])
def test_a_participant_and_an_aggregator_that_restart_come_back(
    at: float, place: int, empty: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of training, and after some of the trained models have come; with and without its checkpoint."""
    peer = (hash_order(12, 1), hash_order(12, 2))[place][0]
    watched = Watched(MoDeST(5, 1, success=1.0, timeout=4.0), monkeypatch)
    faults: list[Fault] = [Crash(at, peer), Restart(at + 1.0, peer, empty=empty)]
    run = modest(watched, rounds=40, faults=faults)
    assert run.info["rounds"] == 40
    assert len(run.models) == 12
    final(run)
    assert any(a == peer and time > at + 1.0 for time, a, *_ in watched.sent)
    if not empty:
        assert watched.view(peer).counter[peer] == 2
        assert max(watched.view(i).counter[peer] for i in range(12) if i != peer) == 2


def test_who_left_and_comes_back_without_memory_is_counted_in_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others know it as gone by a larger counter than its own: it learns that, and takes a larger one still."""
    watched = Watched(MoDeST(5, 2), monkeypatch)
    run = modest(watched, rounds=60, faults=[Leave(0.3, 4), Restart(1.0, 4, empty=True)])
    final(run)
    assert watched.view(4).counter[4] == 3
    assert [time for time, a, *_ in watched.sent if a == 4 and time > 1.0]
    assert sum(watched.view(i).joined[4] for i in range(12)) > 6


def test_halves_that_were_apart_end_with_one_model() -> None:
    half = tuple(range(6))
    run = modest(MoDeST(5, 2, timeout=2.0), rounds=60, faults=[Partition(0.2, 20.0, (half,))])
    assert len(run.models) == 12
    assert run.info["rounds"] == 60


def test_a_peer_that_nobody_answers_does_not_go_on_alone_and_gives_up() -> None:
    last = hash_order(12, 1)[0]
    protocol = MoDeST(4, 2, patience=40.0, timeout=5.0)
    run = modest(protocol, rounds=1000, evaluate=1, faults=[Crash(1.0, i) for i in range(12) if i != last])
    assert 40.0 < run.info["virtual_seconds"] < 100.0
    done = max(row[1] for row in run.metrics if row[0] <= 1.0)
    assert done <= run.info["rounds"] <= done + 1  # it may still average what had come


def test_messages_that_are_lost_do_not_stop_it() -> None:
    links = [Link(latency=0.01, loss=0.1, duplication=0.1, jitter=0.05)] * 12
    run = modest(MoDeST(6, 2, timeout=2.0), rounds=30, network=links)
    assert run.info["rounds"] == 30
    task = runs.regression(60)
    w = runs.start(task)
    for _ in range(1000):
        w = w - 0.3 * runs.gradient(w, task.dataset.train)
    least, losses = loss_of(w, task), run.curve("loss")[:, 1]
    assert losses[-1] - least < 0.1 * (losses[0] - least)


# -- what makes no sense


def junk(me: Learner) -> dict[str, list[Any]]:
    """What no peer would send, by channel."""
    n, model = me.peers, me.model
    good = View.start(n).tensor()
    absurd = good.clone()
    absurd[0, 3] = 2**31 - 1
    negative = good.clone()
    negative[1, 0] = -1
    models: list[Any] = [
        None,
        3,
        model,
        Sent(2, model[:-1], good),
        Sent(2, model.float(), good),
        Sent(2, "model", good),
        Sent(10**12, model, good),
        Sent(-1, model, good),
        Sent(1, model, good),
        Sent(True, model, good),
        Sent(2, model, absurd),
        Sent(2, model, negative),
        Sent(2, model, good[:, :-1]),
        Sent(2, model, good.double()),
        Sent(2, model, None),  # type: ignore[arg-type]
        Sent(2, model * torch.inf, good),
    ]
    signs: list[Any] = [None, "here", Here(10**12, 0), Here(0, -1), Here(0, 10**12), Here(0.5, 0), (0, 0)]  # type: ignore[arg-type]
    return {"trained": models, "average": models, "result": models, "ping": signs, "join": signs, "leave": signs}


class Malicious:
    """Some peers send nothing but junk, and answer with it."""

    needs: ClassVar[Needs] = MoDeST.needs
    steps = 5

    def __init__(self, protocol: MoDeST, bad: Sequence[int]) -> None:
        self.protocol, self.bad = protocol, bad

    async def __call__(self, me: Learner) -> None:
        if me.id not in self.bad:
            await self.protocol(me)
            return
        answers = iter(range(10**6))
        replies = [None, Here(10**12, 3), Known(1, 1, "yes"), Known(10**12, 1, False), Known(0, -5, True), 7]  # type: ignore[arg-type]
        for channel in ("ping", "join", "over", "fetch", "result"):
            me.serve(channel, lambda sender, payload: replies[next(answers) % len(replies)])
        for _ in range(4):
            await me.sleep(0.05)
            for channel, payloads in junk(me).items():
                for to in range(me.peers):
                    for payload in payloads if to not in self.bad else ():
                        if channel in ("trained", "average", "leave"):
                            me.send(to, payload, channel)
                        else:
                            me.spawn(self.ask(me, to, payload, channel))

    async def ask(self, me: Learner, to: int, payload: Any, channel: str) -> None:
        with pytest.raises(PeerLost):  # it is turned down
            await me.request(to, payload, channel)


def test_what_makes_no_sense_is_dropped_and_logged() -> None:
    run = modest(Malicious(MoDeST(5, 2, success=1.0), bad=(2, 7)), rounds=20)
    assert run.info["rounds"] == 20
    honest = torch.stack([run.models[i] for i in range(12) if i not in (2, 7)])
    assert all(torch.equal(row, honest[0]) for row in honest)
    assert torch.isfinite(honest).all()
    logged = {event["event"] for event in run.events}
    assert {"malformed payload dropped", "malformed request dropped", "dropped: NaN or infinity"} <= logged
    assert {e["sender"] for e in run.events if "malformed" in e["event"]} == {2, 7}


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"sample": 0}, "sample"),
        ({"window": 0}, "window"),
        ({"aggregators": 0}, "aggregators"),
        ({"sample": 3, "aggregators": 4}, "aggregators"),
        ({"success": 0.0}, "success"),
        ({"success": 1.5}, "success"),
        ({"steps": -1}, "steps"),
        ({"ping": 0.0}, "ping"),
        ({"timeout": 0.0}, "timeout"),
        ({"patience": 0.0}, "patience"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        MoDeST(**settings)
