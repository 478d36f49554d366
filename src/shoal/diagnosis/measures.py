"""Each instrument applied to a training: from a bench to numbers, lists and words that can be written as JSON."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from shoal.diagnosis.stability import stability
from shoal.diagnosis.subject import Subject
from shoal.instruments import Shadows, Surface, lanczos, line, row_scales, usual_rules
from shoal.instruments import directions as directions_at
from shoal.instruments.frequencies import FOUR, frequency_curves
from shoal.instruments.noise import SGDLaw, SignLaw, drawn_sign_rate, gradient_statistics, hessian_diagonal
from shoal.instruments.opposing import alignment, full_batch_path, jump, opposing_groups
from shoal.learning import Contender
from shoal.learning.data import Data, Dataset
from shoal.optim import Param
from shoal.tensors.random import integers, key, permutation

LABELS = 2048  # that curvature is measured on at most: a text has several a sample
PRODUCTS = 20  # with the Hessian, for its largest eigenvalue
DRAWS = 4  # batches of each size
PROBES = 12  # of the Hessian's diagonal
CAUCHY = 25  # draws for the (1,1)-norm
PER_TICK = 64  # samples whose gradients take about as long as a product
FED = 30  # last steps whose gradients other optimizers are fed
SHOWN = 8  # samples of each opposing group that are shown
AROUND = 10**0.5  # from one rate that is tried to the next


RULES = {
    "SGD": "momentum",
    "clipped SGD": "clipped momentum",
    "normalised SGD": "normalised",
    "sign": "sign of momentum",
    "Lion": "Lion",
    "Adam": "Adam",
    "clipped Adam": "clipped Adam",
}
"""Which of the usual rules are followed, and what they are called on a page."""


class Followed:
    """Where other optimizers would go if they had the gradients of this training.

    Attributes:
        updates: name -> what each would add to the parameters at the last point, float64 [d].
        at: that point [d].
    """

    def __init__(self, about: Subject, model: nn.Module) -> None:
        self._surface = Surface(model, about.task.loss, about.data.inputs[:1], about.data.targets[:1])
        params = [Param(name, tuple(shape)) for name, shape in self._surface.shapes.items()]
        known = usual_rules()
        rules = {word: known[name] for name, word in RULES.items()}
        if not about.rule.needs_loss(params):
            rules = {f"yours: {about.optimizer}": about.rule, **rules}
        self._shadows = Shadows(self._surface, rules)
        self.updates: dict[str, Tensor] = {}
        self.at = self._surface.vector()

    def feed(self, gradients: list[Tensor]) -> None:
        """Take in the gradients of the training's next step."""
        self.at = self._surface.vector()
        self.updates = self._shadows.feed(torch.cat([g.flatten() for g in gradients]), self.at)

    @property
    def steps(self) -> int:
        """Whose gradients they had."""
        return self._shadows.steps


class NotApplicable(ValueError):
    """An instrument has nothing to say about this task; the message says why."""


@dataclass(eq=False)
class Bench:
    """What is measured, and on what.

    Attributes:
        about: task and optimizer.
        steps, batch, samples, seed: settings.
        tell: called with the stage, and what is done of what.
        looks: steps of the training, and the model as it was then.
        followed: where other optimizers would have gone, if that was followed.
        stage: the instrument at work.
    """

    about: Subject
    steps: int
    batch: int
    samples: int
    seed: int
    tell: Callable[[str, int, int], None]
    looks: list[tuple[int, nn.Module]] = field(default_factory=list)
    followed: Followed | None = None
    stage: str = ""
    _done: int = field(default=0, init=False)

    def rows(self, count: int, purpose: str = "measured") -> Data:
        """Random samples of the training data, without repetition."""
        data = self.about.data
        order = permutation(key(self.seed, purpose), len(data))[: min(count, len(data))]
        return data[order.to(data.inputs.device)]

    @property
    def few(self) -> Data:
        """Samples that curvature is measured on."""
        labels = max(1, self.about.data.targets[0].numel())
        whole = not self.about.data.targets.is_floating_point()
        return self.rows(min(self.samples, max(8, LABELS // labels)) if whole else self.samples)

    def surface(self, model: nn.Module, data: Data) -> Surface:
        """The loss on these samples."""
        return Surface(model, self.about.task.loss, data.inputs, data.targets)

    def begin(self, total: int) -> Callable[[], None]:
        """Count up to a total, and tell."""
        self._done = 0

        def tick() -> None:
            self._done += 1
            self.tell(self.stage, min(self._done, total), total)

        return tick


def sharpness(bench: Bench) -> dict[str, Any]:
    """The largest eigenvalue at each look, and where full-batch steps become unstable."""
    tick = bench.begin(PRODUCTS * len(bench.looks))
    values = [top_eigenvalue(bench.surface(model, bench.few), tick) for _, model in bench.looks]
    return {
        "steps": [t for t, _ in bench.looks],
        "eigenvalues": [value for value, _ in values],
        "errors": [error for _, error in values],
        "stability": asdict(stability(bench.about.rule, bench.about.model(bench.seed))),
    }


def top_eigenvalue(surface: Surface, tick: Callable[[], None]) -> tuple[float, float]:
    """The largest eigenvalue of the Hessian, and how far off it may be; NaN where the Hessian is not finite."""
    finite = True

    def product(v: Tensor) -> Tensor:
        nonlocal finite
        tick()
        found = surface.hvp(v)
        finite = finite and bool(torch.isfinite(found).all())
        return found if finite else torch.zeros_like(found)

    found = lanczos(product, surface.vector(), tolerance=0.01, products=max(1, min(PRODUCTS, surface.size)))
    return (float(found.values[0]), float(found.residuals[0])) if finite else (math.nan, math.nan)


def directions(bench: Bench) -> dict[str, Any]:
    """The loss along the updates of several optimizers, at the last step of the training."""
    followed, (_, model) = bench.followed, bench.looks[-1]
    if followed is None or not followed.updates:
        raise NotApplicable("the training ended before it was followed")
    surface, tick = bench.surface(model, bench.few), bench.begin(len(followed.updates))
    loss, found = surface.value(followed.at), {}
    for name, update in followed.updates.items():
        tick()
        direction = directions_at(surface, {name: update}, followed.at)[name]
        step = direction.best_step
        tried = 0.0 < step < math.inf and direction.length > 0.0
        found[name] = {
            "length": direction.length,
            "sharpness": direction.sharpness,
            "slope": direction.slope,
            "step": step,
            "decrease": direction.best_decrease,
            "measured": loss - line(surface, update, [step], followed.at).losses[0] if tried else None,
        }
    return {"steps": followed.steps, "loss": loss, "updates": found}


def smoothness(bench: Bench) -> dict[str, Any]:
    """The (1,1)-norm of the Hessian, and its largest absolute eigenvalue times d, at the end."""
    (step, model) = bench.looks[-1]
    surface = bench.surface(model, bench.few)
    tick = bench.begin(CAUCHY + 2 * PRODUCTS)

    def product(v: Tensor) -> Tensor:
        for _ in range(len(v) if v.dim() == 2 else 1):
            tick()
        return surface.hvp(v)

    rows = row_scales(product, surface.vector(), draws=CAUCHY, seed=bench.seed, together=4)
    both = min(1, surface.size - 1)
    limit = max(2, min(2 * PRODUCTS, surface.size))
    ends = lanczos(product, surface.vector(), bottom=both, tolerance=0.02, products=limit).values
    largest = float(ends.abs().max())
    return {
        "step": step,
        "norm": rows.norm,
        "norm_by_quartiles": rows.norm_by_quartiles,
        "size": surface.size,
        "largest": largest,
        "advantage": surface.size * largest / rows.norm if rows.norm else math.nan,
    }


def noise(bench: Bench) -> dict[str, Any]:
    """Noise scales, and the best learning rate at each batch size, in the first half and at the end."""
    data, few = bench.rows(4 * bench.samples), bench.few
    looks = [bench.looks[i] for i in sorted({min(1, len(bench.looks) - 1), len(bench.looks) - 1})]
    batches = [4**i for i in range(20) if 4**i <= len(data)]
    tick = bench.begin(len(looks) * (-(-len(data) // PER_TICK) + PROBES + (1 + DRAWS) * len(batches) + 10))
    found = []
    for step, model in looks:
        done = 0

        def told(count: int) -> None:
            nonlocal done
            while done + PER_TICK <= count:
                done += PER_TICK
                tick()

        statistics = gradient_statistics(
            model, bench.about.task.loss, data.inputs, data.targets, seed=bench.seed, tell=told
        )
        surface = bench.surface(model, few)

        def product(v: Tensor, surface: Surface = surface) -> Tensor:
            tick()
            return surface.hvp(v.to(surface.vector())).double()

        diagonal = hessian_diagonal(product, surface.size, probes=PROBES, seed=bench.seed).to(statistics.mean.device)
        drawn = [drawn_sign_rate(_signs(bench, model, data, size), statistics.mean, product) for size in batches]
        law, sgd = SignLaw.of(statistics, product, diagonal), SGDLaw.of(statistics, product)
        found.append(
            {
                "step": step,
                "simple": statistics.simple_noise_scale(of=len(bench.about.data)),
                "sign": {"noise": law.noise_scale, "peak": law.peak, "rates": [law.rate(b) for b in batches]},
                "drawn": {"rates": drawn},
                "sgd": {"noise": sgd.noise_scale, "peak": sgd.peak, "rates": [sgd.rate(b) for b in batches]},
            }
        )
    return {"batches": batches, "samples": len(data), "looks": found}


def _signs(bench: Bench, model: nn.Module, data: Data, size: int) -> Iterator[Tensor]:
    """Signs of the gradients of some batches."""
    for i in range(DRAWS):
        rows = data[integers(key(bench.seed, "signs", size, i), len(data), size).to(data.inputs.device)]
        yield bench.surface(model, rows).gradient().sign()


def frequencies(bench: Bench) -> dict[str, Any]:
    """Training loss by class frequency for four optimizers and the subject's."""
    task = bench.about.task
    if task.dataset.classes is None or task.dataset.train.targets.is_floating_point():
        raise NotApplicable("the targets are no classes, so that there are no frequencies")
    with torch.no_grad():
        shape = bench.about.model(bench.seed).eval()(bench.about.data.inputs[:2]).shape
    if shape != (*bench.about.data.targets[:2].shape, task.dataset.classes):
        raise NotApplicable(f"outputs of shape {list(shape)} are no logits of {task.dataset.classes} classes")
    own = bench.about.rule
    rates = tuple(own.lr * factor for factor in (AROUND**-1, 1.0, AROUND))
    contenders = {f"yours: {bench.about.optimizer}": Contender(lambda lr: replace(own, lr=lr), rates=rates)}
    contenders |= {name: Contender(c.make, c.settings, c.rates[1:]) for name, c in FOUR.items()}  # type: ignore[index]
    found = frequency_curves(
        task,
        contenders,
        steps=min(bench.steps, 50),
        batch=bench.batch,
        samples=LABELS,
        seed=bench.seed,
        tell=lambda name, done, total: bench.tell(bench.stage, done, total),
    )
    return {
        "steps": list(found.marks),
        "frequencies": found.bins.frequencies,
        "classes": list(found.bins.classes),
        "samples": list(found.bins.samples),
        "losses": {name: losses.tolist() for name, losses in found.losses.items()},
        "rates": dict(found.rates),
        "own": own.lr,
        "tried": len(rates),
    }


def opposing(bench: Bench) -> dict[str, Any]:
    """Full-batch training with the subject's optimizer: the jump, its groups, and how they fared."""
    data, about = bench.few, bench.about
    if len(data) < 8:
        raise NotApplicable(f"there are only {len(data)} samples")
    model, task = about.model(bench.seed), about.task
    steps, every = bench.steps, max(1, bench.steps // 6)
    tick = bench.begin(2 * steps + PRODUCTS * (steps // every + 1))

    def top(module: nn.Module) -> float:
        return top_eigenvalue(bench.surface(module, data), tick)[0]

    path = full_batch_path(
        model,
        task.loss,
        data.inputs,
        data.targets,
        about.rule,
        steps,
        sharpness=top,
        every=every,
        tell=lambda t: tick(),
    )
    if len(path.losses) < 2:
        raise NotApplicable("full-batch training diverged at its first step")
    step = jump(path.losses)
    groups = opposing_groups(path.losses[step], path.losses[step + 1], max(min(5, len(data) // 2), len(data) // 50))
    again = about.model(bench.seed)
    full_batch_path(again, task.loss, data.inputs, data.targets, about.rule, step, tell=lambda t: tick())
    output, name = _followed(path.outputs, step, groups.up, groups.down, task.dataset)
    return {
        "samples": len(data),
        "count": len(groups.up),
        "step": step,
        "rises": bool(path.mean[step + 1] > path.mean[step]),
        "share": groups.share,
        "cosine": alignment(again, task.loss, data.inputs, data.targets, groups),
        "losses": path.mean.tolist(),
        "eigenvalues": {"steps": list(path.marks), "values": list(path.eigenvalues)},
        "stability": asdict(stability(about.rule, model)),
        "output": name,
        "shades": [float(reduced(data.inputs.float())) for reduced in (torch.min, torch.median, torch.max)],
        "vocabulary": task.dataset.vocabulary,
        "up": _group(path.losses, output, groups.up, data, step),
        "down": _group(path.losses, output, groups.down, data, step),
        "diverged": path.diverged,
    }


def _followed(outputs: Tensor, step: int, up: Tensor, down: Tensor, dataset: Dataset) -> tuple[Tensor, str]:
    """An output [steps, n] that is followed: the class whose probability changes most in both groups, or the mean."""
    if dataset.classes is None or outputs.shape[-1] != dataset.classes:
        return outputs.double().mean(-1), "output"
    chances = torch.softmax(outputs.double(), -1)
    both = torch.cat([up, down])
    k = int((chances[step + 1, both] - chances[step, both]).abs().mean(0).argmax())
    return chances[..., k], f"probability of {repr(dataset.vocabulary[k]) if dataset.vocabulary else f'class {k}'}"


def _group(losses: Tensor, output: Tensor, rows: Tensor, data: Data, step: int) -> dict[str, Any]:
    """Mean loss and output of a group along the training, and its first samples."""
    shown = rows[:SHOWN]
    return {
        "losses": losses[:, rows].double().mean(1).tolist(),
        "outputs": output[:, rows].mean(1).tolist(),
        "before": losses[step, shown].tolist(),
        "after": losses[step + 1, shown].tolist(),
        "targets": data.targets[shown].flatten(1).tolist() if data.targets.dim() > 1 else data.targets[shown].tolist(),
        "inputs": data.inputs[shown].flatten(1).tolist() if data.inputs[0].numel() <= 4096 else [],
    }


MEASURES: Mapping[str, Callable[[Bench], dict[str, Any]]] = {
    "sharpness": sharpness,
    "directions": directions,
    "smoothness": smoothness,
    "noise": noise,
    "frequencies": frequencies,
    "opposing": opposing,
}
"""Instruments by name, in the order in which they are applied."""
