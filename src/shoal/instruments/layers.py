"""How large the gradient of each layer is, beside the layer's size and its weights.

    norm = |g|      per_root = |g| / sqrt(number of entries)      relative = |g| / |weights|

A. Kumar, R. Shen, S. Bubeck, S. Gunasekar, "How to Fine-Tune Vision Models with SGD", arXiv:2211.09359 (2022), who look
at a pretrained model with a new head, where the embedding layer stands out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class LayerGradient:
    """One layer's gradient.

    Attributes:
        layer: the module's name; a parameter's where the model itself owns it.
        size: number of entries.
        norm: Euclidean, over all its parameters.
        per_root: norm over the root of the size.
        relative: norm over that of the weights; infinite where these are 0 and the gradient is not.
    """

    layer: str
    size: int
    norm: float
    per_root: float
    relative: float


def layers(model: nn.Module) -> dict[str, list[str]]:
    """Layer -> names of its parameters, in the model's order: the modules that own parameters."""
    found: dict[str, list[str]] = {}
    for name, _ in model.named_parameters():
        found.setdefault(name.rpartition(".")[0] or name, []).append(name)
    return found


@torch.no_grad()
def layer_gradients(
    model: nn.Module,
    gradients: Mapping[str, Tensor] | None = None,
    groups: Mapping[str, Sequence[str]] | None = None,
) -> list[LayerGradient]:
    """Measure the gradient of every layer, the first layer first.

    Args:
        model: after `backward()`.
        gradients: by names of parameters; None: the `grad` of each. Parameters without one are left out.
        groups: layer -> names of parameters; None: `layers(model)`.

    Raises:
        ValueError: a name is unknown, or nothing has a gradient.
    """
    parameters = dict(model.named_parameters())
    given = {n: p.grad for n, p in parameters.items() if p.grad is not None} if gradients is None else dict(gradients)
    chosen = layers(model) if groups is None else groups
    for argument, told in (("gradients", list(given)), ("groups", [n for part in chosen.values() for n in part])):
        if unknown := [name for name in told if name not in parameters]:
            raise ValueError(f"{argument}: got {unknown[0]!r}; names of the model's parameters are allowed")
    found = []
    for layer, names in chosen.items():
        own = [name for name in names if name in given]
        if own:
            norm, weight = (_norm([part[name] for name in own]) for part in (given, parameters))
            size = sum(parameters[name].numel() for name in own)
            relative = norm / weight if weight else math.inf if norm else 0.0
            found.append(LayerGradient(layer, size, norm, norm / math.sqrt(size), relative))
    if not found:
        raise ValueError("model: got no gradients; call backward() first")
    return found


def _norm(tensors: Sequence[Tensor]) -> float:
    return math.sqrt(math.fsum(float(t.detach().double().square().sum()) for t in tensors))
