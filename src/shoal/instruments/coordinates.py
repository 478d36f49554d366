"""Coordinate check: how far a few steps move the outputs of each layer, at several widths.

    moved = mean over entries of |x_t - x_0|

where x is a layer's output for a fixed batch. Under muP it is the same at every width; under the standard
parametrisation it grows with width in hidden layers, or the loss blows up.

G. Yang, E. J. Hu, et al., "Tensor Programs V: Tuning Large Neural Networks via Zero-Shot Hyperparameter Transfer",
arXiv:2203.03466 (2022), appendix D.1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from shoal.optim.core.arguments import whole
from shoal.text import shown

OUTPUT = "(output)"


@dataclass(frozen=True)
class Coordinate:
    """One layer of one model after some steps.

    Attributes:
        width, seed: of the model.
        step: number of steps taken, 0 at first.
        layer: the module's name; "(output)" is the whole model, where that is not what the last layer puts out.
        size: mean |x_t|.
        moved: mean |x_t - x_0|.
    """

    width: int
    seed: int
    step: int
    layer: str
    size: float
    moved: float


@dataclass(frozen=True)
class CoordinateCheck:
    """What a check found.

    Attributes:
        rows: every layer at every step of every model.
    """

    rows: tuple[Coordinate, ...]

    @property
    def widths(self) -> list[int]:
        """In rising order."""
        return sorted({row.width for row in self.rows})

    @property
    def layers(self) -> list[str]:
        """In the model's order, the output last."""
        return list(dict.fromkeys(row.layer for row in self.rows))

    @property
    def steps(self) -> int:
        """The number of the last step."""
        return max(row.step for row in self.rows)

    def moved(self, layer: str, step: int | None = None) -> list[float]:
        """The mean over seeds, width by width.

        Args:
            layer: one of `layers`.
            step: after how many steps; None: the last.

        Raises:
            ValueError: the check has no such layer or step.
        """
        at = self.steps if step is None else step
        found = []
        for width in self.widths:
            some = [r.moved for r in self.rows if (r.width, r.step, r.layer) == (width, at, layer)]
            if not some:
                raise ValueError(
                    f"layer, step: got {layer!r}, {at}; {', '.join(self.layers)} and 0 to {self.steps} are allowed"
                )
            found.append(math.fsum(some) / len(some))
        return found

    def exponent(self, layer: str, step: int | None = None) -> float:
        """The slope of log(moved) over log(width), by least squares; NaN where nothing moved or a value is infinite."""
        x, y = self.widths, self.moved(layer, step)
        if len(x) < 2 or not all(0.0 < value < math.inf for value in y):
            return math.nan
        u, v = ([math.log(value) for value in values] for values in (x, y))
        mean_u, mean_v = math.fsum(u) / len(u), math.fsum(v) / len(v)
        cross = math.fsum((a - mean_u) * (b - mean_v) for a, b in zip(u, v, strict=True))
        return cross / math.fsum((a - mean_u) ** 2 for a in u)

    @property
    def diverged(self) -> list[int]:
        """Widths at which no layer's movement is a finite number after the last step."""
        return [
            width
            for width, *moved in zip(self.widths, *(self.moved(layer) for layer in self.layers), strict=True)
            if not any(map(math.isfinite, moved))
        ]

    def spread(self, layer: str, step: int | None = None) -> float:
        """The largest of `moved` over the smallest; infinite where one is 0 or not finite."""
        values = self.moved(layer, step)
        return max(values) / min(values) if all(0.0 < value < math.inf for value in values) else math.inf


def coordinate_check(
    make_model: Callable[[int], nn.Module],
    widths: Sequence[int],
    optimizer: Callable[[nn.Module], torch.optim.Optimizer],
    inputs: Tensor,
    targets: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor],
    *,
    steps: int = 4,
    seeds: Sequence[int] = (0,),
    layers: Sequence[str] | None = None,
) -> CoordinateCheck:
    """Train models of several widths on one batch for a few steps, and see how far their layers move.

    Args:
        make_model: width -> a fresh model, drawn under a seed from torch's generator, which is left as it was.
        widths: two or more, at least 1 each.
        optimizer: model -> optimizer; it may initialise the model anew, as `shoal.optim.mup` does.
        inputs: of the batch [B, ...].
        targets: of the batch [B, ...].
        loss: (output, targets) -> losses, of which the mean is minimised.
        steps: at least 1.
        seeds: of the models.
        layers: names of modules whose outputs are looked at; None: all that own parameters.

    Raises:
        ValueError: an argument is not allowed.
    """
    if not isinstance(widths, Iterable) or len(set(widths)) < 2 or not all(map(whole(1), widths)):
        raise ValueError(f"widths: got {shown(widths)}; two or more different whole numbers >= 1 are allowed")
    if not whole(1)(steps):
        raise ValueError(f"steps: got {steps!r}; a whole number >= 1 is allowed")
    if not isinstance(seeds, Iterable) or not seeds:
        raise ValueError(f"seeds: got {shown(seeds)}; a list of one or more whole numbers is allowed")
    rows: list[Coordinate] = []
    for width in widths:
        for seed in seeds:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                model = make_model(width).to(inputs.device)
                made = optimizer(model)
            first = _outputs(model, inputs, layers)
            for step in range(steps + 1):
                if step:
                    made.zero_grad()
                    value = loss(model.train()(inputs), targets).mean()
                    value.backward()
                    told: dict[str, Any] = {"loss": value.detach()} if getattr(made, "needs_loss", False) else {}
                    made.step(**told)
                now = first if not step else _outputs(model, inputs, layers)
                rows += [
                    Coordinate(width, seed, step, name, float(x.abs().mean()), float((x - first[name]).abs().mean()))
                    for name, x in now.items()
                ]
    return CoordinateCheck(tuple(rows))


@torch.no_grad()
def _outputs(model: nn.Module, inputs: Tensor, layers: Sequence[str] | None) -> dict[str, Tensor]:
    """What layers put out for a batch, and the model."""
    found: dict[str, Tensor] = {}
    raw: list[object] = []

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: object, output: object) -> None:
            raw[:] = [output]
            if isinstance(output, Tensor):
                found[name] = output.detach().double()

        return hook

    modules = dict(model.named_modules())
    if layers is None:
        layers = [name for name, m in modules.items() if name and next(m.parameters(recurse=False), None) is not None]
    if unknown := [name for name in layers if name not in modules]:
        raise ValueError(f"layers: got {unknown[0]!r}; names of the model's modules are allowed")
    handles = [modules[name].register_forward_hook(keep(name)) for name in layers]
    training = model.training
    try:
        output = model.eval()(inputs)
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    kept = {name: found[name] for name in layers if name in found}
    return kept if raw and raw[0] is output else {**kept, OUTPUT: output.detach().double()}
