"""P. Goyal, P. Dollár, R. Girshick, P. Noordhuis, L. Wesolowski, A. Kyrola, A. Tulloch, Y. Jia, K. He, "Accurate, Large
Minibatch SGD: Training ImageNet in 1 Hour", 2017 (arXiv 1706.02677).

Claimed: when the minibatch is k times as large, the learning rate has to be k times as large too, after a warm-up from
the old rate to the new one; nothing else changes, and neither does the accuracy, for minibatches up to 8,192 images.

Criteria, fixed before the run:

1. float64: 4 simulated workers that average gradients, with Nesterov momentum, weight decay and a warm-up, have after
   10 steps the model of one worker with the large batch, to 1e-12 of its size.
2. With a constant gradient and no momentum, 16 steps at a rate are one at 16 times the rate, to 1e-12.
3. Through warm-up and decay, momentum with the rate inside its buffer follows the path of momentum with the rate
   outside to 1e-12 if it is corrected, and leaves it by more than 1% of its size if not.
4. k = 16 workers, batch 16 n, 4 epochs, of which the first is warm-up, rate times 0.1 for the last, a base rate from
   the range where the rule should apply: mean test accuracy within 1 point of one worker's with batch n.
5. The same without scaling the rate: at least 2 points below one worker.
6. At a base rate 2.5 times ("check": 4 times) as high, 16 workers without warm-up end at least 2 points below 16 with.
7. The publication scales the rate that is best for the small batch. With that rate, chosen on a validation split with
   a seed that is not tested, 4 workers are within 1 point of one ("full").
8. And so are 16 ("full").

"full": all of Fashion-MNIST, n = 64, base rates 0.01 and 0.025, three seeds. "check": 8,000 of its samples, n = 16,
base rates 0.005 and 0.02, one seed. MLP 784-64-10 on standardised inputs, Nesterov momentum 0.9, weight decay 1e-4.

Notes. All workers read one shuffle of the whole set an epoch. The publication's rate of 0.1 for 256 images is that of a
residual network with batch normalisation on ImageNet and means nothing here, so base rates are this problem's. Its
schedule of 90 epochs is cut to 4, which leaves the large batch 234 steps in all ("full"). Decay of the weights exempts
normalisation layers there; the MLP has none.

The base rates of criteria 4 to 6 come from earlier runs with other seeds, in which the rule applied at the lower one
and warm-up mattered at the higher one, which was also the best for one worker. There 4 and 8 workers kept up at it and
16 did not, so that criterion 8 was not expected to hold: on this problem 16 times the batch is past the end of the
range, as more than 8,192 images are in the publication. "check" has one seed, and accuracies of one seed are uncertain
by about as much as the point that criterion 4 allows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from shoal.engine import ShoalError
from shoal.learning import Task
from shoal.learning.data import Dataset
from shoal.learning.models import mlp
from shoal.optim import SGD, CorrectedVelocity, Momentum, Param, Rule, Velocity
from shoal.optim.schedules import Schedule, constant, gradual_warmup, linear_scaling, step_decay
from shoal.papers.measures import average, in_float64, some_of, standardised
from shoal.papers.result import Finding, Result
from shoal.protocols import SynchronousSGD
from shoal.simulation import Run, simulate
from shoal.tensors import key, normal, permutation

EPOCHS, WARMUP, DECAY = 4, 1, 3
WITHIN, WORSE = 0.01, 0.02
RULE = SGD.rule(momentum=0.9, nesterov=True, weight_decay=1e-4)


@dataclass(frozen=True)
class Setting:
    """Scale of the comparison: samples (None: all), samples n of a worker's batch, base rates, seeds."""

    samples: int | None
    batch: int
    moderate: float
    aggressive: float
    seeds: Sequence[int]


CHECK = Setting(8_000, 16, 0.005, 0.02, (1,))
FULL = Setting(None, 64, 0.01, 0.025, (1, 2, 3))
RATES = (0.005, 0.01, 0.025, 0.05)  # for one worker
TUNING_SEED = 100


def claim(scale: str) -> Result:
    """Check the claim; see the module's docstring for the criteria."""
    setting = FULL if scale == "full" else CHECK
    figures: dict[str, float] = {}
    findings = [data_parallel(setting.seeds, figures), constant_gradient(figures), correction(figures)]
    dataset = standardised(some_of("fashion-mnist", setting.samples))
    findings += scaled(setting, dataset, figures)
    if scale == "full":
        findings += tuned(setting, dataset, figures)
    published = {
        "ImageNet error, batch 256": "23.60%",
        "ImageNet error, batch 8192, gradual warm-up": "23.74%",
        "ImageNet error, batch 8192, no warm-up": "24.84%",
    }
    return Result(findings, figures, published, setting.seeds)


# -- 1 to 3: exact properties ------------------------------------------------------------------------------------


def data_parallel(seeds: Sequence[int], figures: dict[str, float], workers: int = 4, steps: int = 10) -> Finding:
    """Criterion 1."""
    dataset = in_float64(some_of("digits", 256))
    build = mlp(dataset, hidden=16, activation="tanh")
    task = Task("digits in float64", lambda: build().double(), dataset)
    schedule = gradual_warmup(step_decay(0.4, [8]), start=0.1, steps=4)
    worst = 0.0
    for seed in seeds:
        # One epoch is one step, so that both take the same samples in it, and all of them.
        many, one = (
            model_of(synchronous(task, k, len(dataset.train) // k, schedule, steps, seed)) for k in (workers, 1)
        )
        worst = max(worst, float((many - one).norm() / one.norm()))
    figures["4 workers against one: relative error"] = worst
    return Finding(
        "4 workers that average gradients are one with the large batch, to 1e-12", f"{worst:.1e}", worst <= 1e-12
    )


def synchronous(
    task: Task, workers: int, batch: int, schedule: Schedule, steps: int, seed: int, *, samples: int = 1_000_000
) -> Run:
    """Synchronous data-parallel SGD."""
    train = task.dataset.train
    return simulate(
        SynchronousSGD(batch, schedule, shuffle=key(seed, "shuffle") >> 1),
        task=task,
        partition=(train, [torch.arange(len(train))] * workers),
        peers=workers,
        topology="complete",
        optimizer=RULE,
        rounds=steps,
        seed=seed,
        network="ideal",
        evaluate=max(1, steps),
        eval_samples=samples,
        eval_peers=1,
    )


def model_of(run: Run) -> Tensor:
    """The final model [d] of the worker that was looked at; all have the same."""
    (model,) = run.models.values()
    return model


def constant_gradient(figures: dict[str, float], k: int = 16, lr: float = 0.1) -> Finding:
    """Criterion 2."""
    g = normal(key(0, "gradient"), 50, dtype=torch.float64)
    small = path(SGD.rule(), [g] * k, constant(lr))[-1]
    large = path(SGD.rule(), [g], constant(linear_scaling(256 * k, base_lr=lr)))[-1]
    error = figures["16 small steps against a large one"] = float((small - large).abs().max())
    return Finding(
        "16 steps with a constant gradient are one at 16 times the rate, to 1e-12", f"{error:.1e}", error <= 1e-12
    )


def correction(figures: dict[str, float], mu: float = 0.9, steps: int = 60) -> Finding:
    """Criterion 3."""
    gradients = list(normal(key(1, "gradients"), (steps, 50), dtype=torch.float64))
    schedule = gradual_warmup(step_decay(1.6, [40]), start=0.1, steps=30)
    outside = path(Rule("outside", 1.0, (Momentum(mu),)), gradients, schedule)
    size, errors = outside.norm(dim=1).max(), {}
    for name, transform in (("corrected", CorrectedVelocity(mu)), ("uncorrected", Velocity(mu))):
        inside = path(Rule(name, 1.0, (transform,)), gradients, schedule)
        errors[name] = figures[f"rate inside, {name}: distance"] = float((inside - outside).norm(dim=1).max() / size)
    return Finding(
        "momentum with the rate inside: the path of momentum to 1e-12 if corrected, over 1% from it if not",
        f"corrected {errors['corrected']:.1e}, uncorrected {errors['uncorrected']:.1%}",
        errors["corrected"] <= 1e-12 and errors["uncorrected"] > 0.01,
    )


def path(rule: Rule, gradients: Sequence[Tensor], schedule: Schedule) -> Tensor:
    """Points [steps + 1, d] of a rule that starts at 0 and meets these gradients."""
    w = torch.zeros_like(gradients[0])
    param = Param("w", tuple(w.shape))
    state = rule.views(rule.memory({"w": w}), [param])
    points = [w.clone()]
    for t, g in enumerate(gradients):
        rule.step([param], [w], [g], state, float(t + 1), schedule(t))
        points.append(w.clone())
    return torch.stack(points)


# -- 4 to 8: accuracy --------------------------------------------------------------------------------------------


def accuracy(
    setting: Setting, dataset: Dataset, workers: int, base: float, seed: int, *, scale: bool = True, warm: bool = True
) -> float:
    """Test accuracy after training with so many workers at a base rate; 0 if training diverged."""
    epoch = len(dataset.train) // workers // setting.batch
    peak = linear_scaling(workers, base_lr=base, base_batch=1) if scale else base
    schedule = step_decay(peak, [DECAY * epoch])
    if scale and warm:
        schedule = gradual_warmup(schedule, start=base, steps=WARMUP * epoch)
    task = Task("images", mlp(dataset, hidden=64), dataset)
    try:
        return synchronous(task, workers, setting.batch, schedule, EPOCHS * epoch, seed).final()
    except ShoalError:
        return 0.0


def scaled(setting: Setting, dataset: Dataset, figures: dict[str, float]) -> list[Finding]:
    """Criteria 4 to 6."""
    low, high = setting.moderate, setting.aggressive

    def mean(name: str, workers: int, base: float, *, scale: bool = True, warm: bool = True) -> float:
        values = [accuracy(setting, dataset, workers, base, seed, scale=scale, warm=warm) for seed in setting.seeds]
        figures.update({f"accuracy, {name}, seed {seed}": x for seed, x in zip(setting.seeds, values, strict=True)})
        return average(values)

    one = mean(f"1 worker, base {low}", 1, low)
    sixteen = mean(f"16 workers, base {low}, scaled, warm-up", 16, low)
    unscaled = mean(f"16 workers, base {low}, unscaled", 16, low, scale=False)
    warm = mean(f"16 workers, base {high}, scaled, warm-up", 16, high)
    cold = mean(f"16 workers, base {high}, scaled, no warm-up", 16, high, warm=False)
    where = f"{dataset.name}, batch {setting.batch} to {16 * setting.batch}"
    return [
        Finding(
            f"{where}, base rate {low}, scaled, warm-up: within 1 point of one worker",
            f"{sixteen:.2%} against {one:.2%}, {100 * (sixteen - one):+.2f} points",
            sixteen >= one - WITHIN,
        ),
        Finding(
            f"{where}, base rate {low}, not scaled: at least 2 points below one worker",
            f"{unscaled:.2%} against {one:.2%}, {100 * (unscaled - one):+.2f} points",
            unscaled <= one - WORSE,
        ),
        Finding(
            f"{where}, base rate {high}, scaled: without warm-up at least 2 points below with",
            f"{cold:.2%} against {warm:.2%}, {100 * (cold - warm):+.2f} points",
            cold <= warm - WORSE,
        ),
    ]


def tuned(setting: Setting, dataset: Dataset, figures: dict[str, float]) -> list[Finding]:
    """Criteria 7 and 8."""
    order = permutation(key(TUNING_SEED, "validation"), len(dataset.train))
    parts = dataset.train[order[10_000:]], dataset.train[order[:10_000]]
    split = Dataset(dataset.name, *parts, classes=dataset.classes)
    scores = {base: accuracy(setting, split, 1, base, TUNING_SEED) for base in RATES}
    figures.update({f"validation accuracy, 1 worker, base {base}": score for base, score in scores.items()})
    best = figures["best base rate"] = max(scores, key=lambda base: scores[base])
    means = {}
    for workers in (1, 4, 16):
        values = [accuracy(setting, dataset, workers, best, seed) for seed in setting.seeds]
        for seed, value in zip(setting.seeds, values, strict=True):
            figures[f"accuracy, {workers} workers, best base rate, seed {seed}"] = value
        means[workers] = math.fsum(values) / len(values)
    return [
        Finding(
            f"{dataset.name}, batch {setting.batch} to {workers * setting.batch}, best base rate of one worker, "
            "scaled, warm-up: within 1 point of it",
            f"{means[workers]:.2%} against {means[1]:.2%} (base {best}), "
            f"{100 * (means[workers] - means[1]):+.2f} points",
            means[workers] >= means[1] - WITHIN,
        )
        for workers in (4, 16)
    ]
