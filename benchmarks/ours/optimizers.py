"""One step of many optimizers over the same list of parameters, each beside torch's fused AdamW in the same breath.

`python -m benchmarks.ours.optimizers <list> <repetitions> [rivals] [compiled-rivals] [only=SOAP,...]` prints JSON on
its last line: for each arm the CPU seconds of a step in every repetition. One thread, so that the load of the machine
matters little.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from shoal import optim
from shoal.optim.core import Optimizer
from shoal.optim.core.plan import Plan
from shoal.optim.core.recording import source

Make = Callable[[list[nn.Parameter]], torch.optim.Optimizer]
SETTINGS: dict[str, dict[str, Any]] = {
    "SOAP": {"max_precond_dim": 4096},  # no basis of 8,192 entries: that takes half a minute
    "Shampoo": {"precondition_frequency": 10},
}
PERIODS = {"SOAP": 10, "Shampoo": 10}  # steps of which one is longer than the others: they are measured together
PATIENCE = 150  # seconds for one arm
BYTES_ADAMW = 7
NAMED = {"AdamMini", "BAdam", "LOMO", "AdaLomo", "AdaHessian", "AdaFisher", "AdaFisherW"}
"""These need more than a list of tensors."""


def transformer() -> list[tuple[int, ...]]:
    """148 tensors, 10 M parameters."""
    shapes: list[tuple[int, ...]] = [(8192, 256), (128, 256)]
    for _ in range(10):
        shapes += [(768, 256), (768,), (256, 256), (256,), (256,), (256,), (1024, 256), (1024,), (256, 1024), (256,)]
        shapes += [(256,), (256,), (256,), (256,)]
    return [*shapes, (256,), (256,), (256,), (256,), (256,), (256,)]


def mlp() -> list[tuple[int, ...]]:
    """6 tensors, 100,000 parameters."""
    return [(110, 784), (110,), (110, 110), (110,), (10, 110), (10,)]


LISTS = {"transformer": (transformer, 3), "mlp": (mlp, 200)}


def ours() -> dict[str, Make]:
    """Every optimizer that takes a plain list, operation by operation and, where it can be, compiled."""
    arms: dict[str, Make] = {}
    for cls in _classes():
        arms[cls.__name__] = _maker(cls)
        if _element_wise(cls):
            arms[f"{cls.__name__}, compiled"] = _maker(cls, compile=True)
    return arms


def _maker(cls: type[Optimizer], **settings: Any) -> Make:
    return lambda ps: cls(ps, **_needed(cls), **settings)


def _needed(cls: type[Optimizer]) -> dict[str, Any]:
    required = inspect.signature(cls).parameters["lr"].default is inspect.Parameter.empty
    own = SETTINGS.get(cls.__name__, {})
    return {**own, **({"lr": 1e-3} if required else {}), **({"t_max": 100_000} if cls.__name__ == "Ranger21" else {})}


def _classes() -> list[type[Optimizer]]:
    found = {v for v in vars(optim).values() if isinstance(v, type) and issubclass(v, Optimizer) and v is not Optimizer}
    return sorted((c for c in found if c.__name__ not in NAMED and c.arguments), key=lambda c: c.__name__)


def _plan(cls: type[Optimizer]) -> Plan:
    [plan] = cls([nn.Parameter(torch.zeros(64, 64))], **_needed(cls))._all_plans()
    return plan


def _element_wise(cls: type[Optimizer]) -> bool:
    return _plan(cls).granularity == "element"


def describe(cls: type[Optimizer]) -> dict[str, float]:
    """Bytes that a step must touch and operations it takes for an entry, over AdamW's."""
    plan = _plan(cls)
    touched = 3 + 2 * sum(slot.shape is None for _, slot, _ in plan.slots)
    return {"bytes": touched / BYTES_ADAMW, "operations": _operations(plan) / _operations(_plan(optim.AdamW))}


def _operations(plan: Plan) -> float:
    """Lines of the compiled loop; NaN where there is none."""
    return source(plan, torch.float32)[0].count(";\n        ") if plan.granularity == "element" else float("nan")


def torchs() -> dict[str, Make]:
    """Torch's own."""
    return {
        "torch AdamW, for-loop": lambda ps: torch.optim.AdamW(ps, foreach=False),
        "torch AdamW, foreach": lambda ps: torch.optim.AdamW(ps, foreach=True),
    }


def rivals(compiled: bool) -> dict[str, Make]:
    """The same rules by pytorch-optimizer and HeavyBall, as they come; and by torch's compiler, if asked for."""
    import heavyball
    import pytorch_optimizer as po

    arms: dict[str, Make] = {}
    for name in (
        "Lion",
        "ADOPT",
        "LaProp",
        "AdamP",
        "RAdam",
        "AdaBound",
        "AdaMod",
        "DiffGrad",
        "EXAdam",
        "FAdam",
        "SGDP",
    ):
        cls = getattr(po, name, None) or getattr(po, {"DiffGrad": "diffGrad"}.get(name, name), None)
        if cls is None:
            continue
        arms[f"pytorch-optimizer {name}"] = lambda ps, cls=cls: cls(ps, lr=1e-3)
        if compiled:
            arms[f"pytorch-optimizer {name}, compiled"] = lambda ps, cls=cls: _compiled(cls(ps, lr=1e-3))
    soap = {"lr": 1e-3, "betas": (0.95, 0.95), "precondition_frequency": 10, "merge_dims": False}
    arms["pytorch-optimizer SOAP"] = lambda ps: po.SOAP(ps, **soap, max_precondition_dim=4096)
    arms["pytorch-optimizer Shampoo"] = lambda ps: po.Shampoo(ps, lr=1e-3, preconditioning_compute_steps=10)
    arms["heavyball SOAP, compiled"] = lambda ps: heavyball.SOAP(ps, **soap, max_precond_dim=4096)
    for name in ("AdamW", "LaProp", "ADOPT"):
        for family in (f"Foreach{name}", name):
            cls = getattr(heavyball, family, None)
            if cls is not None:
                arms[f"heavyball {name}, compiled"] = lambda ps, cls=cls: cls(ps, lr=1e-3)
                break
    return arms


def _compiled(optimizer: Any) -> torch.optim.Optimizer:
    optimizer._step_foreach = torch.compile(optimizer._step_foreach)
    return optimizer


@contextlib.contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Some take, or compile, as long as one lets them."""

    def late(*_: object) -> None:
        raise TimeoutError(f"not measured once within {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def measure(shapes: Sequence[tuple[int, ...]], steps: int, repetitions: int, arms: dict[str, Make]) -> dict[str, Any]:
    """CPU seconds of a step for each arm, repetition by repetition, the fused step measured around each."""

    def make(build: Make) -> tuple[torch.optim.Optimizer, list[nn.Parameter]]:
        torch.manual_seed(0)
        ps = [nn.Parameter(torch.randn(shape)) for shape in shapes]
        gradients(ps)
        return build(ps), ps

    def gradients(ps: list[nn.Parameter]) -> None:
        for p in ps:
            if p.grad is None:  # some take it away
                p.grad = torch.randn_like(p)

    def seconds(optimizer: torch.optim.Optimizer, ps: list[nn.Parameter], steps: int = steps) -> float:
        total = 0.0
        for _ in range(steps):
            gradients(ps)
            began = time.process_time()
            optimizer.step()
            total += time.process_time() - began
        return total / steps

    fused, fused_ps = make(lambda ps: torch.optim.AdamW(ps, fused=True))
    seconds(fused, fused_ps)
    found: dict[str, Any] = {}
    for name, build in arms.items():
        pairs: list[tuple[float, float]] = []
        try:
            with limited(PATIENCE):
                optimizer, ps = make(build)
                began = time.perf_counter()
                for _ in range(2):
                    gradients(ps)
                    optimizer.step()
                first = time.perf_counter() - began
                for _ in range(repetitions):
                    some = max(steps, *(period for rule, period in PERIODS.items() if rule in name), 0)
                    a, one, b = seconds(fused, fused_ps), seconds(optimizer, ps, some), seconds(fused, fused_ps)
                    pairs.append((one, (a + b) / 2))
        except Exception as error:
            if not (pairs and isinstance(error, TimeoutError)):
                found[name] = {"error": f"{type(error).__name__}: {error}"[:200]}
                print(f"{name}: {found[name]['error']}", file=sys.stderr, flush=True)
                continue
        found[name] = {"seconds": [p[0] for p in pairs], "fused": [p[1] for p in pairs], "first": first}
        print(f"{name}: {sorted(a / b for a, b in pairs)[len(pairs) // 2]:.2f} x fused", file=sys.stderr, flush=True)
    return found


def main() -> None:
    which, repetitions, *rest = sys.argv[1:]
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    make, steps = LISTS[which]
    arms = torchs() | ours()
    if {"rivals", "compiled-rivals"} & set(rest):
        arms |= rivals("compiled-rivals" in rest)
    for wanted in (part.removeprefix("only=").split(",") for part in rest if part.startswith("only=")):
        arms = {name: make for name, make in arms.items() if any(word in name for word in wanted)}
    result = measure(make(), steps, int(repetitions), arms)
    costs = {cls.__name__: describe(cls) for cls in _classes()}
    print(json.dumps({"list": which, "arms": result, "costs": costs}))


if __name__ == "__main__":
    main()
