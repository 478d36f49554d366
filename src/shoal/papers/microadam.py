"""I.-V. Modoranu, M. Safaryan, G. Malinovsky, E. Kurtic, T. Robert, P. Richtarik, D. Alistarh, "MicroAdam: Accurate
Adaptive Optimization with Low Space Overhead and Provable Convergence", 2024 (arXiv 2405.15593).

Claimed: Adam's moments can be rebuilt in each step from the last 10 gradients, of which only the largest 1% of entries
are kept, if what is left out is fed back; 4 bits an entry are enough for that. State is 0.9 bytes a parameter (Adam:
8), and BERT, OPT and LLaMA are fine-tuned about as well as with Adam.

Criteria, fixed before the run:

1. With all entries kept, unrounded, and a window as long as the run, it is torch's Adam, to 1e-12, and nothing is left
   out.
2. Unquantised, all gradients together are what was sent plus what waits, to 1e-12 of them.
3. Quantised, no entry of what waits after a first step is further than half a code from what was left out.
4. Feedback matters: 12 entries of which one is sent. The gradient of the first is 2, -2, 2 ..., that of the others is
   c tanh(15 x), c from 0.55 to 1. After 1,800 steps from 1.5 all |x| of the others are below 0.2 with feedback, and
   without it none has moved at all.
5. The state of the MLP 784-64-10 is at most 0.95 bytes a parameter, AdamW's 8, as measured in float32.
6. Fashion-MNIST, that MLP, each with its best rate: test accuracy at most 1 point below AdamW's.

Notes. The published models have a million times as many parameters as there are steps here, and are fine-tuned, not
trained from the start. The accuracy that is allowed to be lost is about the range of the published differences.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from shoal.learning.contenders import Contender
from shoal.learning.results import Comparison
from shoal.optim import AdamW
from shoal.optim.microadam import MicroAdam, unpack
from shoal.papers.optimizers import apart, outcome, points, race, record, torch_path
from shoal.papers.result import Finding, Result
from shoal.tensors import key, normal

BYTES, WITHIN = 0.95, 0.01
EXACT: dict[str, Any] = {"quant_bits": None, "window_dtype": "full"}
CHANGES: dict[str, dict[str, Any]] = {
    "check": {"steps": 100, "rates": (1e-3, 3e-3, 1e-2), "seeds": (7,)},
    "full": {"rates": (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)},
}


def claim(scale: str = "check") -> Result:
    """Check the claim; see the module's docstring for the criteria."""
    figures: dict[str, float] = {}
    findings = [everything_kept(figures), conserved(figures), half_a_code(figures), feedback(figures)]
    found = race({"AdamW": Contender(AdamW), "MicroAdam": Contender(MicroAdam)}, scale, **CHANGES[scale])
    record(found, figures)
    findings += contest(found, figures)
    published = {
        "bytes of state a parameter, MicroAdam, Adam in float32": "0.9, 8",
        "fine-tuned accuracy": "comparable with Adam's",
    }
    return Result(findings, figures, published, found.seeds)


def everything_kept(figures: dict[str, float], lr: float = 0.02, steps: int = 30) -> Finding:
    """Criterion 1."""
    gradients = list(normal(key(23, "gradients"), (steps, 20), dtype=torch.float64))
    x = nn.Parameter(torch.ones(20, dtype=torch.float64))
    optimizer = MicroAdam([x], lr, density=1.0, window=steps, **EXACT)
    kept = [x.detach().clone()]
    for g in gradients:
        x.grad = g.clone()
        optimizer.step()
        kept.append(x.detach().clone())
    error = figures["everything kept: distance from Adam"] = apart(
        torch.stack(kept), torch_path(torch.optim.Adam, gradients, kept[0], lr=lr)
    )
    left = figures["everything kept: largest entry left out"] = float(optimizer.state[x]["error"].abs().max())
    return Finding(
        "all entries kept: torch's Adam to 1e-12, nothing left out",
        f"{error:.1e}, {left:.1e}",
        error <= 1e-12 and not left,
    )


def sent(state: dict[str, Tensor], entries: int) -> Tensor:
    """The sum of all rows of the window, as a dense vector."""
    total = torch.zeros(entries, dtype=state["values"].dtype)
    return total.scatter_add(0, state["indices"].flatten().long(), state["values"].flatten())


def conserved(figures: dict[str, float], steps: int = 25, entries: int = 80) -> Finding:
    """Criterion 2."""
    gradients = normal(key(24, "gradients"), (steps, entries), dtype=torch.float64)
    x = nn.Parameter(torch.zeros(entries, dtype=torch.float64))
    optimizer = MicroAdam([x], 0.01, density=0.05, window=steps, **EXACT)
    for g in gradients:
        x.grad = g.clone()
        optimizer.step()
    state, total = optimizer.state[x], gradients.sum(0)
    error = float((total - sent(state, entries) - state["error"]).norm() / total.norm())
    figures["sent and waiting against all gradients: relative error"] = error
    return Finding("sent and waiting are all gradients, to 1e-12", f"{error:.1e}", error <= 1e-12)


def half_a_code(figures: dict[str, float], entries: int = 700, bucket: int = 100) -> Finding:
    """Criterion 3."""
    x = nn.Parameter(torch.zeros(entries, dtype=torch.float64))
    optimizer = MicroAdam([x], 0.01, quant_block_size=bucket, window_dtype="full")
    x.grad = normal(key(25, "gradient"), entries, dtype=torch.float64)
    optimizer.step()
    state = optimizer.state[x]
    step = ((state["high"] - state["low"]) / 15.0)[:, None]
    codes = unpack(state["error"], 4, entries).view(-1, bucket)
    left_out = (x.grad - sent(state, entries)).view(-1, bucket)
    worst = float(((codes * step + state["low"][:, None] - left_out).abs() / step).max())
    figures["largest error of what waits, in codes"] = worst
    return Finding("what waits is within half a code", f"{worst:.4f} codes", worst <= 0.5 + 1e-9)


def feedback(figures: dict[str, float], entries: int = 12, steps: int = 1800, lr: float = 0.003) -> Finding:
    """Criterion 4."""
    weights, ends = torch.linspace(0.55, 1.0, entries - 1, dtype=torch.float64), {}
    for name in ("with", "without"):
        x = nn.Parameter(torch.full((entries,), 1.5, dtype=torch.float64))
        optimizer = MicroAdam([x], lr, density=1.0 / entries, **EXACT)
        for t in range(steps):
            others = x.detach()[1:]
            x.grad = torch.cat([others.new_full((1,), 2.0 * (-1) ** t), weights * torch.tanh(15.0 * others)])
            optimizer.step()
            if name == "without":
                optimizer.state[x]["error"].zero_()
        ends[name] = x.detach()[1:].abs()
        figures[f"largest |x| {name} feedback"] = float(ends[name].max())
    figures["smallest |x| without feedback"] = float(ends["without"].min())
    return Finding(
        "one of 12 entries sent: all below 0.2 with feedback, all at 1.5 without",
        f"at most {ends['with'].max():.3f}, at least {ends['without'].min():.3f}",
        bool((ends["with"] < 0.2).all()) and bool((ends["without"] == 1.5).all()),
    )


def contest(found: Comparison, figures: dict[str, float]) -> list[Finding]:
    """Criteria 5 and 6."""
    micro, adam = found["MicroAdam"], found["AdamW"]
    sizes = [entry.state_bytes or math.inf for entry in (micro, adam)]
    figures |= {"bytes of state a parameter, MicroAdam": sizes[0], "bytes of state a parameter, AdamW": sizes[1]}
    return [
        Finding(
            f"at most {BYTES} bytes of state a parameter, AdamW 8",
            f"{sizes[0]:.3f}, {sizes[1]:.3f}",
            sizes[0] <= BYTES and sizes[1] == 8.0,
        ),
        Finding(
            f"{found.task}: test accuracy at most 1 point below AdamW's",
            f"{outcome(found)}; {points(micro.mean, adam.mean)}",
            micro.mean >= adam.mean - WITHIN,
        ),
    ]
