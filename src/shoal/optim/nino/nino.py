"""NiNo: an optimizer, and every so often weights that a network forecasts from the last few.

    every period / c steps: keep the weights        with c of them: theta <- theta + s residual_k(states), begin anew

The residual is that of `GraphNowcaster` (NiNo) or `SingleNowcaster` (WNN+) for k spacings ahead, s the spread of the
layer; k falls over the n = max_steps // period forecasts as round(linspace(sqrt(K), 1, n)^2).

B. Knyazev, A. Moudgil, G. Lajoie, E. Belilovsky, S. Lacoste-Julien, "Accelerating Training with Neuron Interaction and
Nowcasting Networks", arXiv:2409.04434 (2024).

Choices. The forecast takes the place of the optimizer's step, as in the authors' code: weights are kept before the step
that counts, and that step uses no gradient. The optimizer's own state stays, and so do frozen parameters. s has the
1e-6 that the scaling divides by, so that a residual of 0 leaves the weights bit for bit. What is not finite is refused:
weights stay, a warning says so, the next period begins. The nowcaster that comes with the package is narrower than the
authors' (see its metadata, `shoal nowcast about`), and spacings of its training are 5 to 20 steps of Adam.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from shoal.optim.core import Rule
from shoal.optim.core.arguments import whole
from shoal.optim.nino.files import SHIPPED, load
from shoal.optim.nino.graph import NeuralGraph
from shoal.optim.nino.network import Nowcaster, check
from shoal.optim.nino.scaling import horizons, scaled
from shoal.optim.nino.tracing import neural_graph
from shoal.optim.wrapping import Wrapper


@dataclass(frozen=True)
class Forecast:
    """What came of a forecast.

    Attributes:
        step: at which it was made, from 1.
        k: spacings ahead.
        taken: whether the weights are those of the forecast; False if it was not finite.
    """

    step: int
    k: int
    taken: bool


def nino(rule: Rule) -> Rule:
    """There is none for stacked peers.

    Raises:
        ValueError: always.
    """
    raise ValueError(
        f"rule: got {rule.name} for nino, which forecasts whole models from how their layers are connected, and a "
        "rule, made of a chain for each parameter, does not see that; shoal.optim.NiNo in a torch loop is allowed"
    )


class NiNo(Wrapper):
    """Any optimizer with forecasts of its weights: `NiNo(Adam(model.parameters()), model, inputs, max_steps=5000)`.

    Args:
        optimizer: any `torch.optim.Optimizer`, another wrapper too, but none that takes gradients elsewhere than at the
            weights (XGrad). Of the model's parameters it may hold a part; only that is forecast, and of that only what
            is not frozen in all the steps that count.
        model: whose weights they are; made of what `shoal.optim.nino.neural_graph` knows.
        example: inputs of the model, a tensor or a tuple of them; only their shapes count.
        max_steps: of the training, from which the schedule of k follows; later forecasts are of the last k.
        period: steps from one forecast to the next, a multiple of the nowcaster's c (5).
        nowcaster: a network, or a file of `shoal nowcast train`; the one that comes with the package if None.
        power: of the schedule.

    Attributes:
        graph: the model's.
        last: what came of the last forecast; None before the first.

    Raises:
        ValueError: an argument is not allowed, or the model does what no neural graph is known of.
    """

    place: ClassVar[int] = 3

    model: nn.Module
    graph: NeuralGraph
    nowcaster: Nowcaster
    schedule: list[int]
    period: int
    last: Forecast | None
    _states: dict[Tensor, Tensor]  # kept so far, [m, ...]
    _steps: dict[Tensor, int]  # since the beginning; the same for all

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        model: nn.Module,
        example: Any,
        *,
        max_steps: int = 10_000,
        period: int = 1000,
        nowcaster: Nowcaster | str | Path | None = None,
        power: float = 2.0,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise ValueError(f"model: got {type(model).__name__}; a torch.nn.Module is allowed")
        if not isinstance(nowcaster, Nowcaster | str | Path | None):
            raise ValueError(f"nowcaster: got {type(nowcaster).__name__}; a Nowcaster, a file or None is allowed")
        if isinstance(nowcaster, Nowcaster):
            check(nowcaster)
        else:
            nowcaster = load(SHIPPED if nowcaster is None else nowcaster)
        shape = nowcaster.shape
        if not whole(1)(max_steps):
            raise ValueError(f"max_steps: got {max_steps!r}; a whole number >= 1 is allowed")
        if not whole(1)(period) or period % shape.states:
            raise ValueError(
                f"period: got {period!r}; a multiple of {shape.states}, the nowcaster's states, is allowed"
            )
        if not isinstance(power, int | float) or not power > 0.0:
            raise ValueError(f"power: got {power!r}; a number > 0 is allowed")
        super().__init__(
            optimizer,
            model=model,
            nowcaster=nowcaster,
            period=period,
            schedule=horizons(max_steps, period, shape.horizon, power),
            last=None,
            _states={},
            _steps={},
        )
        _checked(self.layers)
        own = set(model.parameters())
        for _, p in self.parameters():
            if p not in own:
                raise ValueError(f"optimizer: got one with a tensor {list(p.shape)} that is no parameter of the model")
        self.graph = neural_graph(model, example, slots=shape.slots, positions=shape.positions)

    def kept(self) -> dict[str, dict[Tensor, Any]]:
        """States so far, and the number of steps."""
        return {"states": self._states, "steps": self._steps}

    @property
    def steps(self) -> int:
        """Steps so far, forecasts among them."""
        return max(self._steps.values(), default=0)

    @property
    def forecasts_next(self) -> bool:
        """Whether the next step is a forecast, which needs no gradient."""
        return self._due(self.steps + 1) and self._collected + 1 == self.nowcaster.shape.states

    @property
    def _collected(self) -> int:
        return max((len(states) for states in self._states.values()), default=0)

    def _due(self, step: int) -> bool:
        return step % (self.period // self.nowcaster.shape.states) == 0

    def replaces(self, layers: list[Wrapper]) -> bool:
        """Count the step, keep the weights if it is time, and say whether there are enough."""
        _checked(layers)
        if self._collected >= (count := self.nowcaster.shape.states):
            raise ValueError(
                f"state_dict: got {self._collected} states kept for a forecast from {count}; that of a nowcaster of as "
                "many states is allowed"
            )
        step = self.steps + 1
        for _, p in self.parameters():
            self._steps[p] = step
            if self._due(step) and p.requires_grad:
                kept = p.detach().unsqueeze(0)
                self._states[p] = torch.cat([self._states[p], kept]) if p in self._states else kept.clone()
        return self._due(step) and self._collected == self.nowcaster.shape.states

    def instead(self) -> None:
        """Forecast, and begin anew."""
        step = self.steps
        k = self.schedule[min((step - 1) // self.period, len(self.schedule) - 1)]
        moved = self._forecast(k)
        taken = all(bool(value.isfinite().all()) for value in moved.values())
        if taken:
            for p, value in moved.items():
                p.copy_(value)
        else:
            warnings.warn(f"NiNo: the forecast at step {step} is not finite; the weights stay", stacklevel=6)
        self._states.clear()
        self.last = Forecast(step, k, taken)

    def _forecast(self, k: int) -> dict[Tensor, Tensor]:
        """Weights k spacings ahead, of the parameters whose states were kept."""
        count, parameters = self.nowcaster.shape.states, list(self.model.parameters())
        device = parameters[0].device
        if self.graph.source.device != device:
            self.graph = self.graph.to(device)
        self.nowcaster.to(device)
        held = {p for p, states in self._states.items() if len(states) == count}
        states = [self._states[p] if p in held else p.detach().expand(count, *p.shape) for p in parameters]
        flat = torch.cat([s.reshape(count, -1) for s in states], 1).T.unsqueeze(1)
        inputs, _, spreads = scaled(flat if flat.dtype == torch.float64 else flat.float(), self.graph.sizes)
        dtype = next((p.dtype for p in self.nowcaster.parameters()), inputs.dtype)
        residuals = self.nowcaster(self.graph, inputs.to(dtype), k)
        moves = (residuals * spreads)[:, 0].split(list(self.graph.sizes))
        return {p: p + d.view_as(p).to(p.dtype) for p, d in zip(parameters, moves, strict=True) if p in held}


def _checked(layers: list[Wrapper]) -> None:
    elsewhere = [layer for layer in layers if layer.elsewhere]
    if elsewhere:
        raise ValueError(
            f"optimizer: got one with {type(elsewhere[0]).__name__}, whose gradients are not taken at the weights; NiNo"
            " does not go together with it"
        )
