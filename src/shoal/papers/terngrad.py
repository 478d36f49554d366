"""W. Wen, C. Xu, F. Yan, C. Wu, Y. Wang, Y. Chen, H. Li, "TernGrad: Ternary Gradients to Reduce Communication in
Distributed Deep Learning", NIPS 2017 (arXiv 1705.07878).

Claimed: gradients in three levels with one scale a layer, right on average after clipping, train AlexNet without loss
of accuracy and GoogLeNet with less than 2% loss, with 16 times fewer bits pushed.

Criteria, fixed before the run:

1. Of 20,000 ("check": 4,000) quantisations of a vector of 200 entries, the mean is within 3 standard errors of the
   clipped vector for at least 98% of them (of a normal error, 0.3% are beyond), and every value is -s, 0 or s.
2. The gradient of an MLP: a scale for each layer gives less variance than one for all.
3. Fashion-MNIST, MLP, 4 workers: a worker sends at least 16 times fewer bytes than with full precision, all included.
4. Its test accuracy is within 1 point of that of full precision (mean over seeds), each with its best rate.

Notes. SGD, constant rates. The authors' code leaves the last layer in full precision; here all are ternary. "check"
has one rate, from the middle of the grid.
"""

from __future__ import annotations

import torch

from shoal.compression import Ternary
from shoal.compression.ternary import clipped
from shoal.learning.models import mlp
from shoal.optim import SGD
from shoal.papers.data_parallel import LARGE, RACES, Arm, contest, dense, shown
from shoal.papers.measures import some_of
from shoal.papers.result import Finding, Result
from shoal.protocols import TernGrad
from shoal.tensors import Layout, derive, key, normal

TIMES, WITHIN = 16.0, 0.01


def claim(scale: str = "check") -> Result:
    """Check the claim; see the module's docstring for the criteria."""
    race, figures = RACES[scale], dict[str, float]()
    rates = LARGE if scale == "full" else (0.2,)
    arms = {"full precision": dense(SGD.rule(), rates), "TernGrad": Arm(lambda lr: TernGrad(), rates, SGD.rule())}
    findings = [unbiased(20_000 if scale == "full" else 4_000, figures), layerwise(figures)]
    found = contest(race, arms, figures)
    times = figures["times fewer bytes up"] = found["full precision"].up / found["TernGrad"].up
    gap = figures["accuracy lost"] = found["full precision"].mean - found["TernGrad"].mean
    findings += [
        Finding(f"a worker sends at least {TIMES:.0f} times fewer bytes", f"{times:.1f} times", times >= TIMES),
        Finding("accuracy within 1 point of full precision", f"{shown(found)}", gap <= WITHIN),
    ]
    published = {"AlexNet on ImageNet, top-1": "no loss", "GoogLeNet": "less than 2% on average", "bits pushed": "1/16"}
    return Result(findings, figures, published, race.seeds)


def unbiased(draws: int, figures: dict[str, float]) -> Finding:
    """Criterion 1."""
    layout = Layout.from_shapes({"x": (200,)}, dtype=torch.float64)
    g = normal(key(41, "g"), layout.size, dtype=torch.float64)
    cut, codec = clipped(g, layout, 2.5), Ternary()
    payloads, _ = codec.encode_rows(g.expand(draws, -1), {}, derive(key(42, "draws"), torch.arange(draws)), layout)
    rows = codec.decode_rows(payloads, layout)
    s = cut.abs().max()
    error = (cut.abs() * (s - cut.abs()) / draws).sqrt()
    share = figures["within 3 standard errors"] = float(
        ((rows.mean(0) - cut).abs() <= 3 * error + 1e-12).double().mean()
    )
    levels = bool(((rows == 0) | (rows.abs() == s)).all())
    return Finding(
        "the mean is within 3 standard errors for 98% of the entries; three levels",
        f"{share:.1%}, {'three levels' if levels else 'other levels'}",
        share >= 0.98 and levels,
    )


def layerwise(figures: dict[str, float]) -> Finding:
    """Criterion 2."""
    dataset = some_of("fashion-mnist", 1_000)
    torch_state = torch.random.get_rng_state()
    torch.manual_seed(5)
    module = mlp(dataset, 32)()
    torch.random.set_rng_state(torch_state)
    batch = dataset.train[:64]
    loss = torch.nn.functional.cross_entropy(module(batch.inputs), batch.targets)
    g = torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(module.parameters()))])
    layout = Layout.of(module)
    spread = {}
    for name, own in (("layer", layout), ("all", Layout.from_shapes({"all": (layout.size,)}))):
        cut = clipped(g, own, None).abs().double()
        spread[name] = sum(float((cut[s.slice] * (cut[s.slice].max() - cut[s.slice])).sum()) for s in own)
    ratio = figures["variance with a scale a layer / with one for all"] = spread["layer"] / spread["all"]
    return Finding("a scale for each layer gives less variance than one for all", f"{ratio:.2f} of it", ratio < 1.0)
