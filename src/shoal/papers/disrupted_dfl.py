"""L. Palmieri, C. Boldrini, L. Valerio, A. Passarella, M. Conti, "Exploring the Impact of Disrupted Peer-to-Peer
Communications on Fully Decentralized Learning in Disaster Scenarios", 2023 (arXiv 2310.02986).

Claimed: when the most central nodes of a scale-free graph vanish during gossip-averaged training (DecAvg), the
process stays fairly robust, and accuracy suffers more from the connectivity that is lost than from the data that is
lost.

Criteria, fixed before the run. BA(n, 2), IID shares, one common initialisation; 20% of the nodes crash at round 10 of
30, and the mean test accuracy of the survivors counts, averaged over three seeds:

1. Mixing alone, in float64, on a graph without its hubs and with relays: every component reaches its closed-form
   limit sum_C pi_i w_i(0), with pi_i proportional to s_i S_i and S_i the sum of s over i and its neighbours, to 1e-9.
2. To lose the hubs hurts more than to lose as many nodes at random: random - hubs is at least 1 percentage point on
   average and above 0 in every seed, with hubs that held data (A) and with hubs that held none (B).
3. A and B differ by less than hubs and random do, |A - B| < random - (A + B) / 2, whether the survivors of B hold the
   shares they have in A (same data left) or all the data (same data at first).
4. Fairly robust: every case keeps at least 80% of the undisrupted accuracy.

"check": n = 50, digits, MLP with 32 hidden units, 4 steps a round. "full": n = 100, Fashion-MNIST, MLP with 64, 19
steps of 32 samples a round, which is an epoch of a share of 600.

Notes. Only the graph's family and the cases are certain (the abstract and a sequel, arXiv 2405.02377, were at hand),
so sizes, rates and times are ours. With |D_j| = 0 to the letter, a relay's model would weigh nothing, and to remove
relays would change nothing: they weigh as much as a share of data here. A round is mix, then train; momentum is a
node's own and kept over rounds. Nodes crash in the middle of the training of round 9. A relay, which does not train,
has sent its model of round 10 by then, so it still counts once more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from shoal.engine import Crash
from shoal.learning import Task
from shoal.learning.data import Data, Dataset, iid, load
from shoal.learning.models import logistic, mlp
from shoal.optim import SGD
from shoal.papers.result import Finding, Result
from shoal.protocols import DecAvg
from shoal.simulation import Run, simulate
from shoal.tensors import key, permutation
from shoal.topology import Topology, barabasi_albert, components, hubs

SECONDS = 0.01  # virtual time of a training step
ARMS = ("undisrupted", "random", "hubs A", "hubs B, same shares", "hubs B, all data")


@dataclass(frozen=True)
class Setting:
    """One scale of the comparison."""

    dataset: str
    nodes: int
    hidden: int
    steps: int
    lr: float
    momentum: float
    rounds: int = 30
    disrupted_at: int = 10
    share: float = 0.2


CHECK = Setting("digits", nodes=50, hidden=32, steps=4, lr=0.1, momentum=0.5)
FULL = Setting("fashion-mnist", nodes=100, hidden=64, steps=19, lr=0.01, momentum=0.9)


def claim(scale: str) -> Result:
    """Check the claim; see the module's docstring for the criteria."""
    seeds, setting = (31, 32, 33), FULL if scale == "full" else CHECK
    figures: dict[str, float] = {}
    findings = [consensus(seeds[0], figures)]
    table = accuracies(setting, seeds, figures)
    mean = {arm: math.fsum(runs) / len(runs) for arm, runs in table.items()}
    figures.update({f"accuracy, {arm}": value for arm, value in mean.items()})
    findings += [hubs_hurt_more(table, mean), connectivity_counts_more(mean), robust(mean)]
    published = {"accuracy": "suffers more from lost connectivity than from lost data", "robustness": "fairly robust"}
    return Result(findings, figures, published, seeds)


def hubs_hurt_more(table: dict[str, list[float]], mean: dict[str, float]) -> Finding:
    """Criterion 2."""
    losses = {arm: [a - b for a, b in zip(table["random"], table[arm], strict=True)] for arm in ARMS[2:]}
    return Finding(
        "random - hubs at least 1 point on average, above 0 in every seed, for A and B",
        f"random {mean['random']:.2%}; "
        + "; ".join(f"{arm} {mean[arm]:.2%}, least difference {100 * min(losses[arm]):.2f} points" for arm in losses),
        all(min(loss) > 0 and math.fsum(loss) / len(loss) >= 0.01 for loss in losses.values()),
    )


def connectivity_counts_more(mean: dict[str, float]) -> Finding:
    """Criterion 3."""
    words, holds = [], True
    for arm in ARMS[3:]:
        apart = abs(mean["hubs A"] - mean[arm])
        lost = mean["random"] - (mean["hubs A"] + mean[arm]) / 2
        words.append(f"{arm.removeprefix('hubs ')}: {100 * apart:.2f} against {100 * lost:.2f} points")
        holds = holds and apart < lost
    return Finding("|A - B| < random - hubs", "; ".join(words), holds)


def robust(mean: dict[str, float]) -> Finding:
    """Criterion 4."""
    worst = min(mean[arm] / mean["undisrupted"] for arm in ARMS)
    return Finding(
        "every case keeps at least 80% of the undisrupted accuracy",
        f"undisrupted {mean['undisrupted']:.2%}, worst case keeps {worst:.1%}",
        worst >= 0.8,
    )


def accuracies(setting: Setting, seeds: Sequence[int], figures: dict[str, float]) -> dict[str, list[float]]:
    """Arm -> mean accuracy of its survivors for each seed."""
    dataset = load(setting.dataset)
    task = Task(setting.dataset, mlp(dataset, hidden=setting.hidden), dataset)
    table: dict[str, list[float]] = {arm: [] for arm in ARMS}
    for seed in seeds:
        graph = barabasi_albert(setting.nodes, m=2, seed=seed)
        for arm in ARMS:
            lost = removed(setting, graph, arm, seed)
            run = disrupted(setting, task, graph, arm, lost, seed)
            table[arm].append(run.final())
            figures[f"accuracy, {arm}, seed {seed}"] = run.final()
            figures[f"spread of accuracy, {arm}, seed {seed}"] = run.info["summary"]["accuracy"]["std"]
            left = [group for group in components(graph.removed(lost)) if group[0] not in lost]
            figures[f"giant component, {arm}, seed {seed}"] = len(left[0])
    return table


def removed(setting: Setting, graph: Topology, arm: str, seed: int) -> tuple[int, ...]:
    """The nodes that crash."""
    count = round(setting.share * setting.nodes)
    if arm == "random":
        return tuple(int(i) for i in permutation(key(seed, "removed"), setting.nodes)[:count])
    return () if arm == "undisrupted" else hubs(graph, count)


def disrupted(setting: Setting, task: Task, graph: Topology, arm: str, lost: tuple[int, ...], seed: int) -> Run:
    """One run."""
    train, shares = iid(task.dataset.train, setting.nodes, seed=seed)
    relays = lost if arm.startswith("hubs B") else ()
    if arm == "hubs B, all data":
        dealt = iter(iid(train, setting.nodes - len(lost), seed=seed)[1])
        shares = [share[:0] if i in relays else next(dealt) for i, share in enumerate(shares)]
    shares = [share[:0] if i in relays else share for i, share in enumerate(shares)]
    middle = (setting.disrupted_at - 0.5) * setting.steps * SECONDS
    return simulate(
        DecAvg(steps=setting.steps),
        task=task,
        topology=graph,
        partition=(train, shares),
        relays=relays,
        peers=setting.nodes,
        optimizer=SGD.rule(setting.lr, momentum=setting.momentum),
        rounds=setting.rounds,
        network="ideal",
        devices=f"uniform:{SECONDS}",
        faults=[Crash(middle, i) for i in lost],
        evaluate=setting.rounds,
        eval_peers=setting.nodes,
        seed=seed,
    )


# -- mixing alone ------------------------------------------------------------------------------------------------


def consensus(seed: int, figures: dict[str, float]) -> Finding:
    """Criterion 1."""
    graph = barabasi_albert(20, m=2, seed=seed)
    broken = graph.removed(hubs(graph, 4))
    relays = (5, 11, 17)
    digits = load("digits")
    train, test = (Data(part.inputs.double(), part.targets) for part in (digits.train, digits.test))
    dataset = Dataset("digits", train, test, classes=10, source=digits.source)
    build = logistic(dataset)
    task = Task("digits, float64", lambda: build().double(), dataset)
    dealt = iter(iid(train, 20 - len(relays), seed=seed)[1])
    nothing = torch.empty(0, dtype=torch.int64)
    partition = train, [nothing if i in relays else next(dealt)[: 20 + 3 * i] for i in range(20)]
    weights = np.array([len(rows) or 40.0 for rows in partition[1]])

    def models(rounds: int) -> Tensor:
        run = simulate(
            DecAvg(steps=0, relay=40.0),
            task=task,
            topology=broken,
            disconnected=True,
            partition=partition,
            relays=relays,
            peers=20,
            rounds=rounds,
            init="independent",
            evaluate=max(1, rounds),
            seed=seed,
        )
        return torch.stack([run.models[i] for i in range(20)])

    limit = consensus_limit(models(0).numpy(), broken, weights)
    rounds = rounds_to_agree(broken, weights, 1e-12)
    error = float(np.abs(models(rounds).numpy() - limit).max())
    figures["mixing alone: distance to the limit"] = error
    figures["mixing alone: rounds"] = rounds
    figures["mixing alone: components"] = len(components(broken))
    return Finding(
        "mixing alone reaches the closed-form limit of each component, to 1e-9", f"{error:.1e}", error <= 1e-9
    )


def consensus_limit(models: np.ndarray, topology: Topology, weights: np.ndarray) -> np.ndarray:
    """What mixing alone ends in, for models [n, d] and weights s [n] > 0: sum_C pi_i w_i in each component C."""
    limit = np.empty_like(models)
    for group in components(topology):
        around = np.array([weights[[i, *topology.neighbours(i)]].sum() for i in group])
        pi = weights[list(group)] * around
        limit[list(group)] = pi @ models[list(group)] / pi.sum()
    return limit


def rounds_to_agree(topology: Topology, weights: np.ndarray, tolerance: float) -> int:
    """How many rounds of mixing shrink every disagreement within a component by `tolerance`."""
    slowest = 0.0
    for group in components(topology):
        inside = [[float(i == j or j in topology.neighbours(i)) * weights[j] for j in group] for i in group]
        matrix = np.array(inside) / np.sum(inside, axis=1, keepdims=True)
        others = sorted(np.abs(np.linalg.eigvals(matrix)))[:-1]
        slowest = max([slowest, *others])
    return math.ceil(math.log(tolerance) / math.log(slowest))
