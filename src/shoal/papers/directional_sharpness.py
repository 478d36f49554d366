"""Y. Pan, Y. Li, "Toward Understanding Why Adam Converges Faster Than SGD for Transformers", 2023 (arXiv 2306.00204).

Claimed: along the steps of SGD the loss of a transformer curves far more than along those of Adam (directional
sharpness S = v'Hv, v the update at length 1), in several tasks by orders of magnitude; few coordinates of the gradient
cause it; to clip them lowers S, makes SGD faster, and can improve Adam.

Criteria, fixed before the run:

1. float64: on f = x' diag(h) x / 2, 200 coordinates, S of ten random updates is sum(h u^2) / sum(u^2), to a relative
   1e-6.
2. A transformer over characters, trained by Adam: at each point of measurement, on one fixed batch, S along the update
   of SGD with momentum is above 5 times that along Adam's, both fed with the gradients of this trajectory.
3. There S along the update of SGD with the largest 10 % of the coordinates clipped is below that of SGD.
4. Trained by themselves, rates tuned for each, mean over seeds: clipped SGD has SGD's last test loss, or a lower one,
   in fewer steps than SGD.
5. Clipped Adam's last test loss is at most Adam's, for each seed.

Changed after a review: criterion 5 asked for the mean over the seeds alone. The first full run met that by 0.6712
against 0.6723, where one seed was worse (0.6949 against 0.6852) and one better (0.6474 against 0.6593): no difference.

Beside the criteria: how far a line search along each update lowers the loss on the fixed batch.

"check": 1 layer of width 32, 100 steps, measured every 50; races of 100 steps, one seed, three rates. "full": 2 layers
of width 64, 200 steps, measured every 50; races (1 layer of width 32) of 200 steps, two seeds, five rates. The Adam of
the trajectory has a rate of 3e-3 and batches of 32 texts; the fixed batch has 64.
"""

from __future__ import annotations

from typing import Any

import torch

from shoal.instruments import Direction, Shadows, Surface, directional_sharpness, directions, line_search, usual_rules
from shoal.learning import Task
from shoal.learning.contenders import Contender
from shoal.learning.results import Comparison
from shoal.optim import SGD, Adam, ClippedAdam, Rule
from shoal.optim.coordinate_clip import coordinate_clip
from shoal.papers.optimizers import characters, race, record
from shoal.papers.result import Finding, Result
from shoal.tensors import key, normal

LOOKED_AT = ("SGD", "clipped SGD", "Adam", "clipped Adam")
FACTOR = 5.0
BATCH = 32
SEEDS = {"check": (31,), "full": (31, 32)}
STEPS = {"check": 100, "full": 200}
RATES = {
    "SGD": (0.03, 0.1, 0.3, 1.0, 3.0),
    "clipped SGD": (0.3, 1.0, 3.0, 10.0, 30.0),
    "Adam": (1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
    "clipped Adam": (1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
}
Points = dict[int, dict[str, Direction]]


def claim(scale: str = "check") -> Result:
    """Check the claim; see the module's docstring for the criteria."""
    figures: dict[str, float] = {}
    task = characters(32, 64, 2) if scale == "full" else characters(32, 32, 1)
    points = trajectory(task, STEPS[scale], 50, figures)
    found = races(scale)
    record(found, figures)
    findings = [closed_form(figures), sharper(points), clipped(points), faster(found), no_worse(found)]
    published: dict[str, float | str] = {
        "S of SGD over S of Adam": "orders of magnitude in several tasks",
        "clipped SGD": "lower S, and faster than SGD",
        "clipped Adam": "can be better than Adam",
    }
    return Result(findings, figures, published, SEEDS[scale])


def closed_form(figures: dict[str, float]) -> Finding:
    """Criterion 1."""
    h, x = (normal(key(i, "directional sharpness"), 200, dtype=torch.float64) for i in range(2))
    model = torch.nn.Module()
    model.x = torch.nn.Parameter(x)
    model.forward = lambda inputs: (0.5 * h * model.x.square()).sum().expand(len(inputs))  # type: ignore[operator]
    surface = Surface(model, lambda output, _: output, torch.zeros(1), torch.zeros(1))
    worst = 0.0
    for i in range(10):
        u = normal(key(2, "directional sharpness", i), 200, dtype=torch.float64)
        exact = float((h * u.square()).sum() / u.square().sum())
        worst = max(worst, abs(directional_sharpness(surface, u) / exact - 1.0))
    figures["diagonal quadratic: relative error of S"] = worst
    return Finding("diagonal quadratic: S in closed form, to 1e-6", f"{worst:.1e}", worst <= 1e-6)


def trajectory(task: Task, steps: int, every: int, figures: dict[str, float]) -> Points:
    """Directions of the shadows' updates at some steps of Adam's trajectory."""
    model, data = task.initial(30), task.dataset.train
    surface = Surface.of(task, model, size=64, seed=30, chunk=None)
    shadows = Shadows(surface, {name: rule for name, rule in usual_rules().items() if name in LOOKED_AT})
    optimizer, random = Adam(model.parameters(), lr=3e-3), torch.Generator().manual_seed(30)
    points: Points = {}
    for step in range(1, steps + 1):
        rows = torch.randint(len(data), (BATCH,), generator=random)
        optimizer.zero_grad()
        task.loss(model(data.inputs[rows]), data.targets[rows]).mean().backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        updates = shadows.feed(torch.cat([g.flatten() for g in gradients]))
        if step % every == 0:
            points[step] = directions(surface, updates)
            note(step, surface, updates, points[step], figures)
        optimizer.step()
    return points


def note(step: int, surface: Surface, updates: dict[str, Any], found: dict[str, Direction], figures: Any) -> None:
    """Add what was measured at one point to the figures."""
    for name, direction in found.items():
        search = line_search(surface, updates[name])
        figures[f"step {step}, {name}: directional sharpness"] = direction.sharpness
        figures[f"step {step}, {name}: loss falls by, along the line"] = search.losses[0] - search.best[1]


def sharper(points: Points) -> Finding:
    """Criterion 2."""
    ratios = [found["SGD"].sharpness / found["Adam"].sharpness for found in points.values()]
    return Finding(
        f"S of SGD above {FACTOR:g} times S of Adam, at each point",
        ", ".join(
            f"{found['SGD'].sharpness:.3g} against {found['Adam'].sharpness:.3g}: {ratio:.1f} times"
            for found, ratio in zip(points.values(), ratios, strict=True)
        ),
        all(found["SGD"].sharpness > FACTOR * found["Adam"].sharpness for found in points.values()),
    )


def clipped(points: Points) -> Finding:
    """Criterion 3."""
    return Finding(
        "S of SGD with 10 % clipped below S of SGD, at each point",
        ", ".join(f"{f['clipped SGD'].sharpness:.3g} against {f['SGD'].sharpness:.3g}" for f in points.values()),
        all(found["clipped SGD"].sharpness < found["SGD"].sharpness for found in points.values()),
    )


def races(scale: str) -> Comparison:
    """All four trained by themselves."""
    makes: dict[str, Any] = {"SGD": sgd, "clipped SGD": clipped_sgd, "Adam": Adam, "clipped Adam": ClippedAdam}
    chosen = {name: rates if scale == "full" else rates[1:4] for name, rates in RATES.items()}
    return race(
        {name: Contender(make, rates=chosen[name]) for name, make in makes.items()},
        scale,
        characters(32, 32, 1),
        steps=STEPS[scale],
        batch=BATCH,
        seeds=SEEDS[scale],
        evaluate_every=10,
        metric="loss",
        extend=False,
    )


def sgd(lr: float) -> Rule:
    """SGD with momentum."""
    return SGD.rule(lr, momentum=0.9)


def clipped_sgd(lr: float) -> Rule:
    """The same with the largest tenth of the coordinates clipped."""
    return coordinate_clip(sgd(lr), 0.1)


def curve(found: Comparison, name: str) -> list[float]:
    """Mean test loss over the seeds at each evaluation."""
    runs = [test.curve for test in found[name].tests]
    return [sum(values) / len(values) for values in zip(*runs, strict=False)]


def faster(found: Comparison) -> Finding:
    """Criterion 4."""
    goal = found["SGD"].mean
    reached = [
        step for step, loss in zip(found.evaluated, curve(found, "clipped SGD"), strict=False) if loss <= goal and step
    ]
    first = reached[0] if reached else None
    return Finding(
        f"clipped SGD has SGD's test loss after {found.steps} steps in fewer steps",
        f"{goal:.4f} {f'after {first} steps' if first else 'not reached'}, {found['clipped SGD'].mean:.4f} in the end",
        first is not None and first < found.steps,
    )


def no_worse(found: Comparison) -> Finding:
    """Criterion 5."""
    pairs = [(a.curve[-1], b.curve[-1]) for a, b in zip(found["clipped Adam"].tests, found["Adam"].tests, strict=True)]
    return Finding(
        "clipped Adam's last test loss at most Adam's, for each seed",
        f"{', '.join(f'{a:.4f} against {b:.4f}' for a, b in pairs)}; mean {found['clipped Adam'].mean:.4f} against "
        f"{found['Adam'].mean:.4f}",
        all(a <= b for a, b in pairs),
    )
