"""GANs as tasks: generator and discriminator in one module, with noise in the inputs.

    discriminator: down   softplus(-D(x)) + softplus(D(G(z)))
    generator:     down   softplus(-D(G(z)))                      (not the negative: the game is not zero-sum)

I. Goodfellow et al., "Generative Adversarial Nets", NeurIPS 2014, arXiv:1406.2661.

The loss is the sum of both, in which each player sees the other's part detached, so that its gradient is each player's
own. Every protocol and rule takes such tasks; `TTUR.rule(..., discriminates="discriminator.")` gives each player a rule
of its own.
"""

from __future__ import annotations

import itertools
import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shoal.learning.data import Data, Dataset
from shoal.learning.task import Task
from shoal.tensors.random import integers, key, normal


class GAN(nn.Module):
    """Two networks. forward: (x, z) [B, d + latent] -> (D(x), D(G(z)), D(G(z)), G(z)) [B, 3 + d].

    Of the second the gradient reaches the discriminator alone, of the third the generator alone.

    Attributes:
        generator: z [B, latent] -> [B, d].
        discriminator: [B, d] -> [B, 1], above 0 for what it takes for data.
        latent: numbers of noise.
    """

    def __init__(self, generator: nn.Module, discriminator: nn.Module, latent: int) -> None:
        super().__init__()
        self.generator, self.discriminator, self.latent = generator, discriminator, latent

    def forward(self, inputs: Tensor) -> Tensor:
        """What both players say, and the samples."""
        real, fake = inputs[:, : -self.latent], self.generator(inputs[:, -self.latent :])
        frozen = {name: p.detach() for name, p in self.discriminator.named_parameters()}
        judged = torch.func.functional_call(self.discriminator, frozen, (fake,))
        return torch.cat([self.discriminator(real), self.discriminator(fake.detach()), judged, fake], 1)


def gan_loss(output: Tensor, target: Tensor) -> Tensor:
    """Both players' losses, [B], of a GAN's output; the target does not count."""
    real, fake, judged = output[:, 0], output[:, 1], output[:, 2]
    return F.softplus(-real) + F.softplus(fake) + F.softplus(-judged)


def dense_gan(dimension: int, latent: int, hidden: int = 64, depth: int = 2, *, unit: bool = False) -> GAN:
    """A GAN of perceptrons.

    Args:
        dimension: of the data.
        latent: numbers of noise.
        hidden: units of each hidden layer.
        depth: number of hidden layers, at least 1.
        unit: whether data lie in [0, 1].

    Raises:
        ValueError: a number below 1.
    """
    sizes = {"dimension": dimension, "latent": latent, "hidden": hidden, "depth": depth}
    for name, value in sizes.items():
        if value < 1:
            raise ValueError(f"{name}: got {value}; at least 1 is allowed")

    def perceptron(inputs: int, outputs: int, act: type[nn.Module]) -> list[nn.Module]:
        widths = [inputs, *[hidden] * depth]
        layers = [layer for a, b in itertools.pairwise(widths) for layer in (nn.Linear(a, b), act())]
        return [*layers, nn.Linear(hidden, outputs)]

    generator = perceptron(latent, dimension, nn.ReLU)
    last = [nn.Sigmoid()] if unit else []
    return GAN(nn.Sequential(*generator, *last), nn.Sequential(*perceptron(dimension, 1, nn.LeakyReLU)), latent)


def ring(modes: int = 8, radius: float = 1.0) -> Tensor:
    """Centres of a mixture of Gaussians, on a circle: [modes, 2]."""
    angle = torch.arange(modes, dtype=torch.float64) * (2.0 * math.pi / modes)
    return (radius * torch.stack([angle.cos(), angle.sin()], 1)).float()


def mixture(samples: int, *, modes: int = 8, spread: float = 0.1, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Draws from Gaussians of standard deviation `spread` on a circle of radius 1: points [n, 2] and their modes [n].

    Raises:
        ValueError: a number outside its range.
    """
    for name, count in (("samples", samples), ("modes", modes)):
        if count < 1:
            raise ValueError(f"{name}: got {count}; at least 1 is allowed")
    if not 0.0 < spread < math.inf:
        raise ValueError(f"spread: got {spread}; a finite number > 0 is allowed")
    which = integers(key(seed, "mixture", "mode"), modes, samples)
    return ring(modes)[which] + spread * normal(key(seed, "mixture", "noise"), (samples, 2)), which


def mixture_gan(
    *,
    modes: int = 8,
    spread: float = 0.1,
    latent: int = 4,
    hidden: int = 32,
    depth: int = 2,
    samples: int = 20_000,
    seed: int = 0,
) -> Task:
    """A GAN that learns Gaussians on a circle.

    Args:
        modes, spread: number of Gaussians and their standard deviation.
        latent, hidden, depth: of the networks.
        samples: draws for training, each with noise of its own; a fifth as many are for testing.
        seed: of the draws.

    Returns:
        A task whose metric "quality" is the share of the generator's samples within three standard deviations of a
        centre.

    Raises:
        ValueError: a number outside its range.
    """

    def part(count: int, name: str) -> Data:
        own = key(seed, name)
        points, which = mixture(count, modes=modes, spread=spread, seed=own)
        return Data(torch.cat([points, normal(key(own, "latent"), (count, latent))], 1), which)

    dense_gan(2, latent, hidden, depth)  # what is not allowed is refused at once
    dataset = Dataset(
        "gan", part(samples, "train"), part(max(1, samples // 5), "test"), source=f"generated from seed {seed}"
    )
    centres = ring(modes)

    def quality(output: Tensor, target: Tensor) -> Tensor:
        nearest = (output[:, None, 3:] - centres.to(output)).square().sum(-1).amin(1)
        return (nearest < (3.0 * spread) ** 2).float()

    players = ("generator.", "discriminator.")
    build = partial(dense_gan, 2, latent, hidden, depth)
    return Task("gan", build, dataset, gan_loss, {"quality": quality}, players)
