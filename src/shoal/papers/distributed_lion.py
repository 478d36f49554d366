"""B. Liu, L. Wu, L. Chen, K. Liang, J. Zhu, C. Liang, R. Krishnamoorthi, Q. Liu, "Communication Efficient Distributed
Training with Distributed Lion", NeurIPS 2024 (arXiv 2404.00438).

Claimed: workers that send only the sign of their Lion direction, and get back a majority vote or an average, match
global Lion and AdamW at about 1/30 of the traffic, with a better accuracy for bytes than TernGrad and others.

Criteria, fixed before the run:

1. Workers with equal gradients take Lion's path, bit for bit, by the vote and by the average.
2. Fashion-MNIST, MLP, 4 workers, one bit an entry: a worker sends at least 30 times fewer bytes than with gradients in
   full precision, all included.
3. Majority vote: test accuracy less than 2 points below global Lion (full precision), each with its best rate.
4. Average: the same.
5. Majority vote reaches 80% test accuracy ("check": 75%) with less than 1/10 of the bytes of global Lion.
6. And with fewer bytes than TernGrad.

Notes. Constant rates, no decay. Signs of 0 go as -1, as in the authors' code, for one bit an entry always. Bytes of
criteria 5 and 6 are all that anybody sent, both ways, first states included. "check" has one rate for
each arm, from the middle of its grid.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from shoal.learning import Task
from shoal.learning.models import mlp
from shoal.optim import SGD, Lion
from shoal.papers.data_parallel import LARGE, RACES, SMALL, Arm, contest, dense, megabytes, shown
from shoal.papers.measures import average, some_of
from shoal.papers.result import Finding, Result
from shoal.protocols import DistributedLion, Isolated, TernGrad
from shoal.simulation import simulate

TIMES, WITHIN, SHARE = 30.0, 0.02, 0.1


def claim(scale: str = "check") -> Result:
    """Check the claim; see the module's docstring for the criteria."""
    race, figures, full = RACES[scale], dict[str, float](), scale == "full"
    if not full:
        race = replace(race, target=0.75)
    small, large = (SMALL, LARGE) if full else ((1e-3,), (0.2,))
    found = contest(
        race,
        {
            "global Lion": dense(Lion.rule(), small),
            "majority": Arm(lambda lr: DistributedLion(lr, zero=-1), small),
            "average": Arm(lambda lr: DistributedLion(lr, average=True, zero=-1), small),
            "TernGrad": Arm(lambda lr: TernGrad(), large, SGD.rule()),
        },
        figures,
    )
    times = figures["times fewer bytes up"] = found["global Lion"].up / found["majority"].up
    findings = [
        as_lion(figures),
        Finding(f"a worker sends at least {TIMES:.0f} times fewer bytes", f"{times:.1f} times", times >= TIMES),
    ]
    for name in ("majority", "average"):
        gap = figures[f"accuracy lost, {name}"] = found["global Lion"].mean - found[name].mean
        findings.append(Finding(f"{name}: less than 2 points below global Lion", shown(found), gap < WITHIN))
    sizes = {name: average(o.to_target) for name, o in found.items()}
    findings += [
        Finding(
            f"majority: {race.target:.0%} with less than a tenth of global Lion's bytes",
            megabytes(found),
            sizes["majority"] < SHARE * min(sizes["global Lion"], 1e300),
        ),
        Finding("and with fewer bytes than TernGrad", megabytes(found), sizes["majority"] < sizes["TernGrad"]),
    ]
    published = {"traffic": "1/30", "accuracy": "as global Lion and AdamW", "against TernGrad, DGC": "better for bytes"}
    return Result(findings, figures, published, race.seeds)


def as_lion(figures: dict[str, float]) -> Finding:
    """Criterion 1."""
    dataset = some_of("digits")
    same = (dataset.train, [torch.arange(200)] * 3)
    options: dict[str, Any] = {
        "task": Task("digits", mlp(dataset, 16), dataset),
        "peers": 3,
        "partition": same,
        "batch": 0,
        "rounds": 15,
        "seed": 5,
        "topology": "complete",
        "workers": 1,
    }
    alone = simulate(Isolated(1), optimizer=Lion.rule(2e-3), **options)
    errors = []
    for mean in (False, True):
        run = simulate(DistributedLion(2e-3, average=mean), **options)
        (model,) = run.models.values()
        errors.append(float((model - alone.models[0]).abs().max()))
    figures["equal gradients: distance from Lion"] = max(errors)
    return Finding("equal gradients everywhere are Lion, bit for bit", f"{max(errors):.1e}", max(errors) == 0.0)
