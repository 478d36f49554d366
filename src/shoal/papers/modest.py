"""M. de Vos, A. Dhasade, A.-M. Kermarrec, E. Lavoie, J. Pouwelse, R. Sharma, "MoDeST: Bridging the Gap between
Federated and Decentralized Learning with Decentralized Sampling", 2023 (arXiv 2302.13837). Code:
devos50/decentralized-learning; the later versions are called Plexus (sacs-epfl/plexus).

Claimed: with samples that every node works out for itself from a hash, a few of whose members average, learning without
a server converges as federated learning does, sends 3 to 14 times less than D-PSGD to the same accuracy, and goes on
when 80% of all nodes are unresponsive.

Criteria, fixed before the run. Samples of s = 10, label-skewed data (two shards of sorted labels a peer), 5 local steps
a round, "wan" links:

1. 60 nodes that have merged each other's views, in different orders, work out the same list for each of 100 rounds.
2. Digits, 60 nodes, a = 1, sf = 1, no failures: after 20 rounds everybody's model is bit-equal to that of federated
   averaging by a server, with unweighted means over the same samples.
3. The same run sends 2 a s models a round, less those that go from a peer to itself.
4. a = 2, sf = 0.8: rounds to a test accuracy at most 1.25 times those of FedAvg with as many clients a round, means
   over seeds.
5. Bytes to that accuracy at least 3 times fewer than those of D-PSGD, means over seeds; of D-PSGD with the static
   exponential graph and with one neighbour a round in turn, the one that needs fewer.
6. a = 2, sf = 0.8, 80% of the peers crash as round 20 ends: in every seed all rounds are done, and the test accuracy
   over the last quarter of the rounds is above that of the 5 rounds before the crash.

"check": digits, 60 peers, MLP with 32 hidden units, 85%, two seeds, 80 rounds. "full": Fashion-MNIST, 500 peers of 60
samples, MLP with 32, 65%, three seeds, 100 rounds. Each method has its own learning rate, out of the same four, by the
accuracy over the last quarter of its rounds with a seed that is not among the tested ones; for "check", rates found in
this way are given.

Notes. D-PSGD's accuracy is the mean over its peers' models, which is what each of them has; what their mean model needs
is among the figures. All D-PSGD peers train in each round, here by the same local steps. The accuracies to be reached
come from runs with the tuning seed, as ones that FedAvg, MoDeST and D-PSGD on the static graph get to, or nearly, in
their rounds; there, D-PSGD sent over 10 times as much. A D-PSGD that does not get there counts with all that it has
sent, which makes the factor a lower bound.

Written after the full run, to read it by: the rate of FedAvg and MoDeST, 0.1, is the lowest that was tried. D-PSGD with
one neighbour never got there in its 80 rounds, so the factor of 31.6 is a bound by that budget; the mean of its models,
which no peer has, got there with 13 to 15 times as many bytes as MoDeST. FedAvg's rounds differ by a factor of two
between seeds, and criterion 4 averages three of them; at "check" scale it does not hold: 28 and 24 rounds to 20 and 20.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any, ClassVar

import torch
from torch import Tensor

from shoal.aggregation import mean
from shoal.engine import Crash, ShoalError
from shoal.learning import Learner, Task
from shoal.learning.models import mlp
from shoal.papers.measures import average, in_words, number, rounds_to, some_of
from shoal.papers.result import Finding, Result
from shoal.protocols import FedAvg, Gossip, MoDeST, Needs
from shoal.protocols.gossip.views import View, hash_order
from shoal.simulation import Run, simulate
from shoal.tensors import key, permutation

SAMPLE, STEPS = 10, 5
CRASHED, CRASH_ROUND = 0.8, 20
SLOWER, LESS = 1.25, 3.0
RATES = (0.1, 0.2, 0.4, 0.8)
GRAPHS = {"D-PSGD, exponential": "exponential", "D-PSGD, one neighbour": "one-peer-exponential"}


@dataclass(frozen=True)
class Scale:
    """One scale of criteria 4 to 6.

    Attributes:
        samples: training samples of all peers together; None takes all.
        rounds: of FedAvg and MoDeST; `gossip`: of D-PSGD.
        rates: method -> learning rates to choose from; a single one is taken as it is.
    """

    dataset: str
    samples: int | None
    peers: int
    batch: int
    hidden: int
    target: float
    rounds: int
    gossip: int
    every: int
    seeds: Sequence[int]
    rates: dict[str, Sequence[float]]
    tuning_seed: int = 1000


METHODS = ("MoDeST", "FedAvg", *GRAPHS)
CHECK = Scale("digits", None, 60, 8, 32, 0.85, 80, 60, 1, (61, 62), dict.fromkeys(METHODS, (0.4,)))
FULL = Scale("fashion-mnist", 30_000, 500, 20, 32, 0.65, 100, 80, 2, (61, 62, 63), dict.fromkeys(METHODS, RATES))


def claim(scale: str) -> Result:
    """Check the claim; see the module's docstring for the criteria."""
    setting = FULL if scale == "full" else CHECK
    figures: dict[str, float] = {}
    rates = {method: best_rate(setting, method, figures) for method in METHODS}
    runs = {
        (method, seed): run_of(setting, method, rates[method], seed) for method in METHODS for seed in setting.seeds
    }
    findings = [
        same_samples(setting.seeds[0]),
        *as_a_server(setting.seeds[0], figures),
        as_fast(setting, runs, rates, figures),
        less_sent(setting, runs, figures),
        goes_on(setting, runs, rates["MoDeST"], figures),
    ]
    published = {
        "convergence": "as fast as federated learning",
        "communication to the same accuracy": "3 to 14 times less than D-PSGD",
        "80% of nodes unresponsive": "goes on",
    }
    return Result(findings, figures, published, setting.seeds)


# -- 1: samples --------------------------------------------------------------------------------------------------


def same_samples(seed: int, peers: int = 60, rounds: int = 100, window: int = 20) -> Finding:
    """Criterion 1."""
    draw = Random(seed)
    latest = [(draw.randrange(rounds), draw.randrange(6)) for _ in range(peers)]  # of each node: active, counter
    heard = [[(draw.randint(0, a), draw.randint(0, c)) for a, c in latest] for _ in range(peers)]
    views = []
    for _ in range(peers):
        view = View.start(peers)
        for news in draw.sample(heard, peers):
            view.merge(View([a for a, _ in news], [c for _, c in news], [c % 3 != 2 for _, c in news]))
        views.append(view)
    differ, sizes = 0, []
    for k in range(1, rounds + 1):
        active = [i for i, view in enumerate(views) if view.joined[i] and view.active[i] >= k - window]
        lists = {tuple(views[i].candidates(k, window, i)) for i in active}
        differ += len(lists) != 1
        sizes += [len(candidates) for candidates in lists]
    return Finding(
        f"{peers} nodes with equal views: the same list in each of {rounds} rounds",
        f"{differ} differ; lists of {min(sizes)} to {max(sizes)} nodes",
        differ == 0,
    )


# -- 2, 3: a server's rounds -------------------------------------------------------------------------------------


class Served:
    """Federated averaging with given samples and unweighted means."""

    needs: ClassVar[Needs] = Needs(server=True)

    def __init__(self, samples: Sequence[Sequence[int]]) -> None:
        self.samples = samples

    async def __call__(self, me: Learner) -> None:
        """What the server does; a client only answers."""
        if not me.is_server:
            me.serve("train", partial(self.train, me))
            return
        async for r in me.rounds():
            models = await me.request_all(self.samples[r], me.model, "train")
            me.model = mean([models[i] for i in sorted(models)])

    async def train(self, me: Learner, sender: int, model: Tensor) -> Tensor:
        """A client's part of a round."""
        me.model = model
        me.reset_optimizer()
        await me.train(STEPS)
        return me.model


def as_a_server(seed: int, figures: dict[str, float], peers: int = 60, rounds: int = 20) -> list[Finding]:
    """Criteria 2 and 3."""

    def run(protocol: Any) -> Run:
        every: dict[str, Any] = {"evaluate": rounds, "eval_peers": peers}
        settings: dict[str, Any] = {"partition": "shards", "batch": 8, "lr": 0.1, "rounds": rounds, **every}
        return simulate(protocol, task="digits", peers=peers, seed=seed, **settings)

    samples = [hash_order(peers, k)[:SAMPLE] for k in range(1, rounds + 2)]
    sampled, served = run(MoDeST(SAMPLE, 1, success=1.0, steps=STEPS)), run(Served(samples))
    (model,) = served.models.values()
    equal = sum(torch.equal(own, model) for own in sampled.models.values())
    channels = sampled.info["bytes"]["channels"]
    sent = channels["trained"]["messages"] + channels["average"]["messages"]
    itself = sum(samples[k + 1][0] in samples[k] for k in range(rounds)) + rounds - 1
    expected = 2 * SAMPLE * rounds - SAMPLE - itself  # the last average goes to everybody
    figures["models sent in 20 rounds, a = 1"] = sent
    return [
        Finding(
            f"digits, {peers} nodes, a = 1: models bit-equal to those of a server with the same samples",
            f"{equal} of {peers} after {rounds} rounds",
            equal == peers,
        ),
        Finding("2 a s models a round, less those to oneself", f"{sent}, {expected} expected", sent == expected),
    ]


# -- 4, 5: rounds and bytes to an accuracy -----------------------------------------------------------------------


def as_fast(
    setting: Scale, runs: dict[tuple[str, int], Run], rates: dict[str, float], figures: dict[str, float]
) -> Finding:
    """Criterion 4."""
    needed = {
        method: [rounds_to(runs[method, seed], setting.target) for seed in setting.seeds]
        for method in ("MoDeST", "FedAvg")
    }
    for (method, seed), run in runs.items():
        figures[f"test accuracy, {method}, seed {seed}"] = late(run)
        figures[f"rounds to {setting.target:.0%}, {method}, seed {seed}"] = number(
            rounds_to(run, setting.target), budget(setting, method)
        )
    ours, theirs = average(needed["MoDeST"]), average(needed["FedAvg"])
    words = {m: f"{m} (lr {rates[m]}) {in_words(needed[m], setting.rounds)}" for m in needed}
    return Finding(
        f"{setting.dataset}, {setting.peers} peers, rounds to {setting.target:.0%}: at most {SLOWER} times FedAvg's",
        f"{words['MoDeST']}; {words['FedAvg']}",
        math.isfinite(ours) and ours <= SLOWER * theirs,
    )


def less_sent(setting: Scale, runs: dict[tuple[str, int], Run], figures: dict[str, float]) -> Finding:
    """Criterion 5."""
    sent: dict[str, float] = {}
    for method in ("MoDeST", *GRAPHS):
        counts = [bytes_to(runs[method, seed], setting.target) for seed in setting.seeds]
        sent[method] = math.fsum(counts) / len(counts)
        for seed, count in zip(setting.seeds, counts, strict=True):
            figures[f"MB to {setting.target:.0%}, {method}, seed {seed}"] = count / 1e6
            if method in GRAPHS:
                mean_model = bytes_to(runs[method, seed], setting.target, peer=-1)
                figures[f"MB to {setting.target:.0%}, {method}, mean model, seed {seed}"] = mean_model / 1e6
    arrived = all(math.isfinite(rounds_to(runs["MoDeST", seed], setting.target)) for seed in setting.seeds)
    factor = min(sent[graph] for graph in GRAPHS) / sent["MoDeST"]
    figures["times fewer bytes"] = factor
    return Finding(
        f"bytes to {setting.target:.0%}: at least {LESS:.0f} times fewer than D-PSGD",
        f"{factor:.1f} times; " + ", ".join(f"{method} {count / 1e6:.0f} MB" for method, count in sent.items()),
        arrived and factor >= LESS,
    )


def bytes_to(run: Run, target: float, peer: int | None = None) -> float:
    """Bytes sent when the accuracy is first reached; all of them if it is not."""
    reached, sent = run.curve(peer=peer), run.curve(against="bytes", peer=peer)
    for (_, accuracy), (count, _) in zip(reached, sent, strict=True):
        if accuracy >= target:
            return float(count)
    return float(run.info["bytes"]["total"])


def best_rate(setting: Scale, method: str, figures: dict[str, float]) -> float:
    """The rate with the best accuracy at the end, with the tuning seed; a single one is taken as it is."""
    rates = setting.rates[method]
    if len(rates) == 1:
        return rates[0]
    scores = {}
    for lr in rates:
        try:
            scores[lr] = late(run_of(setting, method, lr, setting.tuning_seed))
        except ShoalError:  # it diverged
            scores[lr] = 0.0
        figures[f"tuning, {method}, lr {lr}: accuracy"] = scores[lr]
    return max(scores, key=lambda lr: scores[lr])


def late(run: Run) -> float:
    """The mean accuracy over the last quarter of the rounds."""
    curve = run.curve()
    return float(curve[curve[:, 0] > 0.75 * curve[-1, 0], 1].mean())


def budget(setting: Scale, method: str) -> int:
    """How many rounds a method is given."""
    return setting.gossip if method in GRAPHS else setting.rounds


def run_of(setting: Scale, method: str, lr: float, seed: int, **more: Any) -> Run:
    """One run."""
    dataset = some_of(setting.dataset, setting.samples)
    protocols: dict[str, Any] = {
        "MoDeST": MoDeST(SAMPLE, 2, success=0.8, steps=STEPS),
        "FedAvg": FedAvg(SAMPLE / setting.peers, steps=STEPS),
    }
    gossips = method in GRAPHS
    return simulate(
        protocols.get(method, Gossip(STEPS)),
        task=Task(setting.dataset, mlp(dataset, setting.hidden), dataset),
        topology=GRAPHS.get(method, "ring"),
        peers=setting.peers,
        partition="shards",
        network="wan",
        batch=setting.batch,
        lr=lr,
        seed=seed,
        rounds=budget(setting, method),
        evaluate=setting.every,
        eval_peers=60 if gossips else setting.peers,
        **more,
    )


# -- 6: four fifths are gone -------------------------------------------------------------------------------------


def goes_on(setting: Scale, runs: dict[tuple[str, int], Run], lr: float, figures: dict[str, float]) -> Finding:
    """Criterion 6."""
    words, holds = [], True
    for seed in setting.seeds:
        undisturbed = runs["MoDeST", seed]
        at = min(row[0] for row in undisturbed.metrics if row[1] >= CRASH_ROUND)
        gone = permutation(key(seed, "crashed"), setting.peers)[: round(CRASHED * setting.peers)]
        run = run_of(setting, "MoDeST", lr, seed, faults=[Crash(at, int(i)) for i in gone])
        curve = run.curve()
        rounds = curve[:, 0]
        before = float(curve[(rounds > CRASH_ROUND - 5) & (rounds <= CRASH_ROUND), 1].mean())
        after = late(run)
        figures[f"accuracy before the crash, seed {seed}"] = before
        figures[f"test accuracy, MoDeST, seed {seed} (80% crash)"] = after
        figures[f"rounds done after the crash, seed {seed}"] = run.info["rounds"] - CRASH_ROUND
        figures[f"virtual seconds a round before the crash, seed {seed}"] = at / CRASH_ROUND
        figures[f"virtual seconds a round after the crash, seed {seed}"] = seconds_after(run, at, setting.rounds)
        words.append(f"{before:.1%} to {after:.1%} (undisturbed {late(undisturbed):.1%})")
        holds = holds and run.info["rounds"] == setting.rounds and after > before
    return Finding(
        f"{CRASHED:.0%} crash as round {CRASH_ROUND} ends: all {setting.rounds} rounds are done, and accuracy rises",
        "; ".join(words),
        holds,
    )


def seconds_after(run: Run, at: float, rounds: int) -> float:
    """Mean seconds a round after the crash, from the metrics' times."""
    last = min(row[0] for row in run.metrics if row[1] == rounds)
    return (last - at) / (rounds - CRASH_ROUND)
