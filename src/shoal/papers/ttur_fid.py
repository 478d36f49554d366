"""M. Heusel, H. Ramsauer, T. Unterthiner, B. Nessler, S. Hochreiter, "GANs Trained by a Two Time-Scale Update Rule
Converge to a Local Nash Equilibrium", NeurIPS 2017 (arXiv 1706.08500).

Claimed: with a learning rate for each player GANs converge to a local Nash equilibrium and reach a lower Fréchet
Inception Distance than with one rate; and that distance follows what spoils images.

Criteria, fixed before the run:

1. The toy min_x max_y (1 + x^2)(100 - y^2) with noise of deviation 1 on both gradients, from (0.5, 0.5), 200 paths a
   seed: with rates 3e-3 and 3e-2 the mean distance from (0, 0) over the last tenth of 4,000 steps is below 0.2; with
   one rate of 0.012 and of 0.02 every path diverges.
2. The same toy with rates that meet the theory's conditions (powers 0.9 and 0.6): the mean distance after 20,000 steps
   is below 0.7 of that after 2,000; with the constant rates of criterion 1 it is not.
3. FID of a set with itself is below 1e-6; of Gaussians with commuting covariances it is the closed form, to 1e-8.
4. Features of a small classifier of Fashion-MNIST, test images against themselves spoilt: FID rises strictly with noise
   (deviation 0, 0.1, 0.2, 0.3, 0.4) and with blur (means over squares of 1, 3, 5, 7, 9).
5. GANs of perceptrons on eight Gaussians on a circle, Adam with betas 0.5 and 0.999: of the 12 pairs of unequal rates
   out of 10^-3.5, 10^-3, 10^-2.5, 10^-2, and of 12 single rates evenly over the same range, those of the least FID over
   the tuning seeds are trained anew: the pair's mean FID over three other seeds is at most the single rate's. The
   distance is that of coordinates and of closeness to each of the eight centres (10 features, 10,000 samples).
6. The same on Fashion-MNIST with the features of criterion 4 (32 features, 10,000 samples, against the test images), 6
   pairs out of three rates 10^-3.5, 10^-3, 10^-2.5, and 6 single ones.

"check": criterion 5 with 300 steps and one tuning seed; no criterion 6, and 2,000 images in 4. "full": 3,000 steps in
5, 1,000 in 6, two tuning seeds in 5 and one in 6. Batches have 64 samples; steps are simultaneous, one each.

Found by a review: criterion 1 shows no gain from two rates. Its single rates have |1 - 200 rate| > 1, which diverges by
construction; lower ones, 0.001 to 0.009, end nearer than the pair's 0.070: 0.013 to 0.041. They are in the finding.

After 1,000 steps the GANs of Fashion-MNIST are far from trained: their FID is above that of test images under noise of
deviation 0.4. In 5 the chosen single rate and the discriminator's of the chosen pair are the highest of the grid.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shoal.instruments.features import fashion_features
from shoal.instruments.fid import FID, Moments, frechet_distance
from shoal.learning.data import load
from shoal.learning.gans import GAN, dense_gan, gan_loss, mixture, ring
from shoal.optim import Adam, Param, Schedule, constant, two_time_scales
from shoal.papers.result import Finding, Result
from shoal.tensors import key, normal

SEEDS = (61, 62, 63)
TUNING = (171, 172)
SPREAD = 0.1
Pair = tuple[float, float]
"""Rates of generator and discriminator."""


def claim(scale: str = "check") -> Result:
    """Check the claim; see the module's docstring for the criteria."""
    figures: dict[str, float] = {}
    full = scale == "full"
    findings = [*toy(figures), *exact(figures), *spoilt(figures, 10_000 if full else 2_000)]
    findings.append(contest("mixture", figures, 3_000 if full else 300, TUNING if full else TUNING[:1], 4))
    if full:
        findings.append(contest("Fashion-MNIST", figures, 1_000, TUNING[:1], 3))
    published: dict[str, float | str] = {
        "FID, one rate -> two": "DCGAN: CelebA 21.4 -> 12.5, CIFAR-10 37.7 -> 36.9, LSUN 70.4 -> 57.5; "
        "WGAN-GP: CIFAR-10 29.3 -> 24.8, LSUN 20.5 -> 9.5",
    }
    return Result(findings, figures, published, (*SEEDS, *TUNING))


# -- the toy -----------------------------------------------------------------------------------------------------


def play(a: Schedule, b: Schedule, steps: int, seed: int, paths: int = 200) -> Tensor:
    """Distances from the saddle point [steps, paths]; infinite from where a path diverged."""
    random = torch.Generator().manual_seed(seed)
    x, y = torch.full((2, paths), 0.5, dtype=torch.float64)
    found = []
    for n in range(steps):
        noise = torch.randn(2, paths, generator=random, dtype=torch.float64)
        down, up = 2.0 * x * (100.0 - y.square()) + noise[0], -2.0 * y * (1.0 + x.square()) + noise[1]
        x, y = x - a(n) * down, y + b(n) * up
        found.append(torch.hypot(x, y).nan_to_num(nan=math.inf))
    return torch.stack(found)


def toy(figures: dict[str, float]) -> list[Finding]:
    """Criteria 1 and 2."""
    slow, fast = constant(3e-3), constant(3e-2)
    near = [float(play(slow, fast, 4_000, seed)[-400:].mean()) for seed in SEEDS]
    figures |= {f"toy, two rates: distance, seed {seed}": d for seed, d in zip(SEEDS, near, strict=True)}
    lost = [
        float((play(constant(rate), constant(rate), 4_000, seed)[-1] > 1e3).double().mean())
        for rate in (0.012, 0.02)
        for seed in SEEDS
    ]
    figures["toy, one rate above 0.01: least share of paths that diverged"] = min(lost)
    single = {}
    for rate in (0.001, 0.003, 0.005, 0.009):
        single[rate] = float(play(constant(rate), constant(rate), 4_000, SEEDS[0])[-400:].mean())
        figures[f"toy, one rate of {rate:g}: distance"] = single[rate]
    falls = {}
    for name, rates in (
        ("vanishing", two_time_scales(2e-3, 0.2, slow_power=0.9, fast_power=0.6, steps=100.0)),
        ("constant", (slow, fast)),
    ):
        paths = play(*rates, 20_000, SEEDS[0])
        falls[name] = float(paths[-200:].mean() / paths[1_800:2_000].mean())
        figures[f"toy, {name} rates: distance after 20,000 steps over that after 2,000"] = falls[name]
    return [
        Finding(
            "toy: with two rates the mean distance from the saddle point is below 0.2, each seed",
            f"{', '.join(f'{d:.3f}' for d in near)}; with one rate "
            f"{', '.join(f'{rate:g}: {d:.3f}' for rate, d in single.items())}",
            max(near) < 0.2,
        ),
        Finding("toy: with one rate of 0.012 or 0.02 all paths diverge", f"{100 * min(lost):.0f} %", min(lost) == 1.0),
        Finding(
            "toy: with the theory's rates the distance falls below 0.7 from 2,000 to 20,000 steps, with constant ones "
            "it does not",
            f"{falls['vanishing']:.2f}, constant {falls['constant']:.2f}",
            falls["vanishing"] < 0.7 <= falls["constant"],
        ),
    ]


# -- the distance --------------------------------------------------------------------------------------------------


def exact(figures: dict[str, float]) -> list[Finding]:
    """Criterion 3."""
    x = normal(key(1, "ttur"), (4_000, 24), dtype=torch.float64) @ normal(key(2, "ttur"), (24, 24), dtype=torch.float64)
    same = FID(lambda s: s)(x, x)
    q = torch.linalg.qr(normal(key(3, "ttur"), (24, 24), dtype=torch.float64))[0]
    s1, s2, m1, m2 = (normal(key(k, "ttur"), 24, dtype=torch.float64) for k in (4, 5, 6, 7))
    found = frechet_distance(m1, q @ s1.square().diag() @ q.T, m2, q @ s2.square().diag() @ q.T)
    form = float((m1 - m2).square().sum() + (s1.abs() - s2.abs()).square().sum())
    off = abs(found - form) / form
    figures |= {"FID of a set with itself": same, "FID of commuting Gaussians, relative error": off}
    return [
        Finding("FID of a set with itself is below 1e-6", f"{same:.1e}", same < 1e-6),
        Finding("FID of commuting Gaussians is the closed form, to 1e-8", f"{off:.1e}", off < 1e-8),
    ]


@cache
def images() -> tuple[Tensor, Tensor]:
    """Training and test images [N, 784]; where Fashion-MNIST is missing, digits drawn large."""
    dataset = load("fashion-mnist", fallback=True)
    train, test = (large(part.inputs) for part in (dataset.train, dataset.test))
    return train, test


def large(x: Tensor) -> Tensor:
    """Square images [N, d] of 28 x 28."""
    side = math.isqrt(x.shape[1])
    if side == 28:
        return x
    return F.interpolate(x.view(-1, 1, side, side), (28, 28), mode="bilinear").flatten(1)


def noisy(x: Tensor, deviation: float) -> Tensor:
    """With Gaussian noise, cut off at 0 and 1."""
    return (x + deviation * normal(key(8, "ttur"), tuple(x.shape))).clamp(0.0, 1.0)


def blurred(x: Tensor, width: float) -> Tensor:
    """Means over squares of an odd width."""
    k = int(width)
    pad = F.pad(x.view(-1, 1, 28, 28), [k // 2] * 4, mode="replicate")
    return F.avg_pool2d(pad, k, stride=1).flatten(1)


def spoilt(figures: dict[str, float], samples: int) -> list[Finding]:
    """Criterion 4."""
    fid, real = FID(fashion_features()), images()[1][:samples]
    known = fid.moments(real)
    findings = []
    spoilers: dict[str, tuple[Callable[[Tensor, float], Tensor], Sequence[float]]] = {
        "noise": (noisy, (0.0, 0.1, 0.2, 0.3, 0.4)),
        "blur": (blurred, (1, 3, 5, 7, 9)),
    }
    for name, (spoil, levels) in spoilers.items():
        found = [fid(known, spoil(real, level)) for level in levels]
        figures |= {f"FID, {name} {level:g}": d for level, d in zip(levels, found, strict=True)}
        findings.append(
            Finding(
                f"FID rises with {name}",
                ", ".join(f"{d:.2f}" for d in found),
                all(a < b for a, b in itertools.pairwise(found)),
            )
        )
    return findings


# -- GANs ------------------------------------------------------------------------------------------------------------


def trained(
    make: Callable[[], GAN], data: Tensor, pairs: Sequence[Pair], seeds: Sequence[int], steps: int, batch: int = 64
) -> list[nn.Module]:
    """Generators after training, one for each pair and seed; all GANs are stacked, and two rules of Adam step at once.

    Args:
        make: builds a GAN.
        data: [N, d], from which batches are drawn.
        pairs, seeds: rates, and the seed of start, batches and noise, of each GAN.
        steps, batch: of each.
    """
    gans = []
    for seed in seeds:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            gans.append(make())
    one, latent = gans[0], gans[0].latent
    stacked = {
        n: torch.stack([dict(g.named_parameters())[n].detach() for g in gans]) for n, _ in one.named_parameters()
    }
    draws = {seed: torch.Generator().manual_seed(seed) for seed in dict.fromkeys(seeds)}

    def loss(parameters: dict[str, Tensor], inputs: Tensor) -> Tensor:
        return gan_loss(torch.func.functional_call(one, parameters, (inputs,)), inputs).mean()

    gradient = torch.func.vmap(torch.func.grad(loss))
    rule, players = Adam.rule(lr=1.0, betas=(0.5, 0.999)), []
    for k, player in enumerate(("generator.", "discriminator.")):
        names = [n for n in stacked if n.startswith(player)]
        params = [Param(n, tuple(stacked[n].shape[1:])) for n in names]
        memory = {n: torch.stack([x] * len(gans)) for n, x in rule.memory({n: stacked[n][0] for n in names}).items()}
        rates = torch.tensor([pair[k] for pair in pairs], dtype=torch.float64)
        players.append((names, params, rule.views(memory, params), rates))
    for t in range(1, steps + 1):
        batches = {}
        for seed, random in draws.items():
            rows = torch.randint(len(data), (batch,), generator=random)
            batches[seed] = torch.cat([data[rows], torch.randn(batch, latent, generator=random)], 1)
        found = gradient(stacked, torch.stack([batches[seed] for seed in seeds]))
        number = torch.full((len(gans),), float(t), dtype=torch.float64)
        for names, params, state, rates in players:
            rule.step(params, [stacked[n] for n in names], [found[n] for n in names], state, number, rates)
    for i, gan in enumerate(gans):
        gan.load_state_dict({n: x[i] for n, x in stacked.items()})
    return [gan.generator for gan in gans]


@cache
def setting(name: str) -> tuple[Callable[[], GAN], Tensor, FID, Moments, int]:
    """GAN, training data, distance, moments of other real data, and numbers of noise."""
    if name == "mixture":
        centres = ring()

        def closeness(x: Tensor) -> Tensor:
            near = (x[:, None] - centres).square().sum(-1)
            return torch.cat([x, (-near / (2.0 * (3.0 * SPREAD) ** 2)).exp()], 1)

        fid, latent = FID(closeness), 4
        data, other = (mixture(10_000, spread=SPREAD, seed=seed)[0] for seed in (1, 2))
        return lambda: dense_gan(2, latent, 32), data, fid, fid.moments(other), latent
    fid, latent = FID(fashion_features()), 32
    train, test = images()
    return lambda: dense_gan(784, latent, 128, unit=True), train, fid, fid.moments(test), latent


@torch.no_grad()
def scored(name: str, generators: Sequence[nn.Module]) -> list[float]:
    """FID of each; infinite where samples are not finite. All draw the same noise."""
    _, _, fid, known, latent = setting(name)
    noise = normal(key(9, "ttur"), (10_000, latent))
    samples = [generator(noise) for generator in generators]
    return [fid(known, x) if bool(torch.isfinite(x).all()) else math.inf for x in samples]


def grids(rates: int) -> tuple[list[Pair], list[Pair]]:
    """Pairs of unequal rates half a decade apart from 10^-3.5 on, and as many single rates over their range."""
    some = [10.0 ** (-3.5 + 0.5 * i) for i in range(rates)]
    pairs = [(a, b) for a in some for b in some if a != b]
    gaps = len(pairs) - 1
    single = [10.0 ** (-3.5 + 0.5 * (rates - 1) * i / gaps) for i in range(len(pairs))]
    return pairs, [(rate, rate) for rate in single]


def contest(name: str, figures: dict[str, float], steps: int, tuning: Sequence[int], rates: int) -> Finding:
    """Criteria 5 and 6."""
    make, data, fid, known, _ = setting(name)
    pairs, single = grids(rates)
    every = [*pairs, *single]
    runs = [(pair, seed) for pair in every for seed in tuning]
    scores = scored(name, trained(make, data, [p for p, _ in runs], [s for _, s in runs], steps))
    mean = {}
    for i, pair in enumerate(every):
        own = scores[i * len(tuning) : (i + 1) * len(tuning)]
        mean[pair] = sum(own) / len(own)
    best = [min(grid, key=lambda pair: mean[pair]) for grid in (pairs, single)]
    tests = [(pair, seed) for pair in best for seed in SEEDS]
    found = scored(name, trained(make, data, [p for p, _ in tests], [s for _, s in tests], steps))
    two, one = found[: len(SEEDS)], found[len(SEEDS) :]
    for label, pair, own in (("two rates", best[0], two), ("one rate", best[1], one)):
        figures[f"{name}, {label}: generator's"], figures[f"{name}, {label}: discriminator's"] = pair
        figures |= {f"test FID, {label}, seed {seed} ({name})": d for seed, d in zip(SEEDS, own, strict=True)}
        figures[f"{name}, {label}: tuning FID"] = mean[pair]
    figures[f"{name}: FID of training data"] = fid(known, data[:10_000])
    return judged(name, best, two, one)


def judged(name: str, best: Sequence[Pair], two: Sequence[float], one: Sequence[float]) -> Finding:
    """The verdict on a contest: rates of the pair and of the single rate, and their distances."""
    a, b = sum(two) / len(two), sum(one) / len(one)
    (g, d), (rate, _) = best
    return Finding(
        f"{name}: the best pair's mean FID is at most the best single rate's",
        f"{a:.4g} at generator {g:.2g}, discriminator {d:.2g}; {b:.4g} at {rate:.2g}",
        a <= b,
    )
