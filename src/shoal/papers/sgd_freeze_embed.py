"""A. Kumar, R. Shen, S. Bubeck, S. Gunasekar, "How to Fine-Tune Vision Models with SGD", 2022 (arXiv 2211.09359).

Claimed: SGD fine-tunes modern vision models worse than AdamW, above all under distribution shift, where the gradients
of the embedding layer are much larger than those of the others. With that layer frozen SGD is slightly above AdamW, at
less memory: 12 bytes a parameter with momentum and 8 without, against 16.

Criteria, fixed before the run; a vision transformer (2 blocks, width 48, patches of 7 x 7) is trained by AdamW on
classes 0 to 4 of Fashion-MNIST, gets a new head, and is fine-tuned on 4,000 images of classes 5 to 9 with a cosine
schedule and batches of 64. Six rates each, half a decade apart; the best on held-out images is trained anew with other
seeds. Shift: mean accuracy on 2,500 test images made darker (x / 2), paler (0.75 x + 0.25), and noisy (standard
deviation 0.2).

1. Frozen tensors are equal bit for bit after training with momentum and weight decay, by SGD and by AdamW.
2. State is 2, 1 and 0 times the bytes of the trained parameters for AdamW, SGD with momentum and plain SGD, so that
   weights, gradients and state are 16, 12 and 8 bytes each.
3. At the pretrained weights the embedding is among the upper quarter of layers by gradient norm over the root of the
   number of entries.
4. Under shift, SGD with frozen embedding is at least as accurate as SGD, mean of three seeds.
5. It is at most one point below AdamW.
6. SGD whose layers take steps in proportion to their weights' norms (LARS with coefficient 1) is at least as accurate
   under shift as SGD.

"check": 40 steps of pretraining, 12 of fine-tuning, three rates, one seed. "full": 300, 80, six, three.

Notes. Paler was x / 2 + 1 / 2 at first, at which everybody was at chance in a run of "check". The published models are
large and were pretrained on much; the effect need not be there in one of this size. Class token and positions stay
trainable. Gradual unfreezing is measured and has no criterion.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from shoal.instruments.layers import LayerGradient, layer_gradients
from shoal.learning import Task
from shoal.learning.data import Data, Dataset
from shoal.learning.models import vit
from shoal.optim import LARS, SGD, AdamW, GradualUnfreezing, freeze_embeddings, warmup_cosine
from shoal.optim.freezing import embedding_names
from shoal.papers.loops import accuracy, best, descend
from shoal.papers.measures import some_of
from shoal.papers.result import Finding, Result
from shoal.tensors import key, normal

BATCH, TUNING_SEED, TRAINED, HELD, TESTED = 64, 900, 4000, 1000, 2500


@dataclass(frozen=True)
class Setting:
    """Steps before and in fine-tuning, number of rates, seeds."""

    pretraining: int
    steps: int
    rates: int
    seeds: tuple[int, ...]


SETTINGS = {"check": Setting(40, 12, 3, (41,)), "full": Setting(300, 80, 6, (41, 42, 43))}


@dataclass(frozen=True)
class Way:
    """How a model is fine-tuned: from parameters and a rate to the optimizer, the lowest rate, what is frozen."""

    make: Callable[..., torch.optim.Optimizer]
    low: float
    frozen: bool = False
    gradual: bool = False


SGDM = partial(SGD, momentum=0.9)
WAYS = {
    "AdamW": Way(AdamW, 1e-4),
    "SGD": Way(SGDM, 1e-3),
    "SGD, frozen embedding": Way(SGDM, 1e-3, frozen=True),
    "SGD, layers normalised": Way(
        partial(LARS, momentum=0.9, weight_decay=0.0, trust_coefficient=1.0, adapt=True), 1e-4
    ),
    "SGD, unfrozen gradually": Way(SGDM, 1e-3, frozen=True, gradual=True),
}


def claim(scale: str = "check") -> Result:
    """Check the claim; see the module's docstring for the criteria."""
    setting, figures = SETTINGS[scale], dict[str, float]()
    start = pretrained(setting.pretraining)
    figures["accuracy on the classes of the pretraining"] = accuracy(start, task(0))
    findings = [untouched(start), memory(start, figures), outlier(start, figures)]
    shifted = {name: fine_tuned(name, start, setting, figures) for name in WAYS}
    findings += compared(shifted)
    published: dict[str, float | str] = {
        "shift, mean over 7 models x 5 sets": "SGD < AdamW < SGD with frozen embedding"
    }
    return Result(findings, figures, published, setting.seeds)


# -- task --------------------------------------------------------------------------------------------------------------


def _classes(data: Data, first: int) -> Data:
    some = (data.targets >= first) & (data.targets < first + 5)
    return Data(data.inputs[some], data.targets[some] - first)


@cache
def task(first: int) -> Task:
    """Five classes from `first` on, and the model."""
    whole = some_of("fashion-mnist")
    dataset = Dataset(whole.name, _classes(whole.train, first), _classes(whole.test, first)[:TESTED], classes=5)
    side = round(dataset.train.inputs[0].numel() ** 0.5)
    return Task(f"{whole.name}/vit", vit(dataset, patch=7 if side % 7 == 0 else 2), dataset)


@cache
def tuning() -> Task:
    """The task of the fine-tuning, with held-out training images in the place of the test's."""
    whole = task(5)
    train, held = whole.dataset.train[:TRAINED], whole.dataset.train[TRAINED : TRAINED + HELD]
    return Task(whole.name, whole.model, Dataset(whole.dataset.name, train, held, classes=5))


def shifts(x: Tensor) -> dict[str, Tensor]:
    """Images under each shift."""
    drawn = normal(key(3, "sgd-freeze-embed"), tuple(x.shape), dtype=x.dtype)
    return {"darker": 0.5 * x, "paler": 0.75 * x + 0.25, "noisy": x + 0.2 * drawn}


@cache
def pretrained(steps: int) -> nn.Module:
    """The model after AdamW on classes 0 to 4."""
    model = task(0).initial(40)
    optimizer = AdamW(model.named_parameters(), lr=2e-3, weight_decay=0.05)
    descend(model, optimizer, task(0), steps=steps, batch=BATCH, seed=40, schedule=warmup_cosine(1.0, steps=steps))
    return model


def with_new_head(start: nn.Module, seed: int) -> nn.Module:
    """A copy whose head is drawn anew."""
    model: Any = copy.deepcopy(start)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model.head.reset_parameters()
    return model  # type: ignore[no-any-return]


# -- exact -------------------------------------------------------------------------------------------------------------


def untouched(start: nn.Module) -> Finding:
    """Criterion 1."""
    same, count = True, 0
    for make in (partial(SGDM, lr=0.05, weight_decay=0.1), partial(AdamW, lr=1e-2, weight_decay=0.1)):
        model = with_new_head(start, 1)
        optimizer = make(model.named_parameters())
        frozen = freeze_embeddings(model)
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        descend(model, optimizer, tuning(), steps=3, batch=BATCH, seed=1)
        moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
        same, count = same and moved.isdisjoint(frozen) and len(moved) + len(frozen) == len(before), len(frozen)
    return Finding(
        "frozen tensors are equal bit for bit, and all others move",
        f"{count} tensors frozen, {'none' if same else 'not as they should be'} moved",
        same,
    )


def memory(start: nn.Module, figures: dict[str, float]) -> Finding:
    """Criterion 2."""
    found = {}
    for name, make in (("AdamW", AdamW), ("SGD with momentum", SGDM), ("SGD", partial(SGD, momentum=0.0))):
        model = with_new_head(start, 1)
        freeze_embeddings(model)
        optimizer: Any = make(model.named_parameters(), lr=1e-3)
        descend(model, optimizer, tuning(), steps=1, batch=BATCH, seed=1)
        trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
        found[name] = optimizer.state_bytes() / trained
        figures[f"bytes a trained parameter, {name}"] = 8.0 + 4.0 * found[name]
    return Finding(
        "state is 2, 1 and 0 times the trained parameters for AdamW, SGD with momentum and SGD",
        ", ".join(f"{name} {times:g}" for name, times in found.items()),
        list(found.values()) == [2.0, 1.0, 0.0],
    )


def outlier(start: nn.Module, figures: dict[str, float]) -> Finding:
    """Criterion 3."""
    model, data = with_new_head(start, 1), tuning().dataset.train[:1024]
    tuning().loss(model(data.inputs), data.targets).mean().backward()
    found = layer_gradients(model)
    for layer in found:
        figures |= {
            f"gradient of {layer.layer}: norm": layer.norm,
            f"gradient of {layer.layer}: norm over root of entries": layer.per_root,
            f"gradient of {layer.layer}: norm over weights": layer.relative,
        }
    name = embedding_names(model)[0].rpartition(".")[0]
    places = {
        label: 1 + sorted(found, key=lambda layer: -measure(layer)).index(next(x for x in found if x.layer == name))
        for label, measure in _MEASURES.items()
    }
    return Finding(
        "the embedding is in the upper quarter of layers by gradient norm over the root of its entries",
        f"of {len(found)} layers: " + ", ".join(f"{place} by {label}" for label, place in places.items()),
        places["norm over root"] <= len(found) / 4,
    )


_MEASURES: dict[str, Callable[[LayerGradient], float]] = {
    "norm": lambda layer: layer.norm,
    "norm over root": lambda layer: layer.per_root,
    "norm over weights": lambda layer: layer.relative,
}


# -- fine-tuning -------------------------------------------------------------------------------------------------------


def run(way: Way, start: nn.Module, lr: float, steps: int, seed: int) -> nn.Module:
    """The fine-tuned model."""
    model = with_new_head(start, seed)
    if way.frozen:
        freeze_embeddings(model)
    optimizer = way.make(model.named_parameters(), lr=lr)
    after = GradualUnfreezing(model, every=max(1, steps // 6)).step if way.gradual else None
    schedule = warmup_cosine(1.0, steps=steps)
    descend(model, optimizer, tuning(), steps=steps, batch=BATCH, seed=seed, schedule=schedule, after=after)
    return model


def fine_tuned(name: str, start: nn.Module, setting: Setting, figures: dict[str, float]) -> float:
    """Mean accuracy under shift, with the rate that is best on held-out images."""
    way, scores = WAYS[name], dict[float, float]()
    grid = [way.low * 10.0 ** (0.5 * i) for i in range(6)]
    for lr in grid[1 :: len(grid) // setting.rates] if setting.rates < len(grid) else grid:
        scores[lr] = accuracy(run(way, start, lr, setting.steps, TUNING_SEED), tuning())
        figures[f"{name}, lr {lr:.3g}: held-out accuracy"] = scores[lr]
    lr, _ = best(scores)
    usual, shifted = [], []
    for seed in setting.seeds:
        model = run(way, start, lr, setting.steps, seed)
        usual.append(accuracy(model, task(5)))
        found = {label: _accuracy_at(model, x) for label, x in shifts(task(5).dataset.test.inputs).items()}
        figures |= {f"{name}, seed {seed}, {label}: accuracy": value for label, value in found.items()}
        shifted.append(sum(found.values()) / len(found))
    figures |= {
        f"{name}: learning rate": lr,
        f"{name}: accuracy": sum(usual) / len(usual),
        f"{name}: accuracy under shift": sum(shifted) / len(shifted),
    }
    return sum(shifted) / len(shifted)


@torch.no_grad()
def _accuracy_at(model: nn.Module, x: Tensor) -> float:
    return float((model.eval()(x).argmax(1) == task(5).dataset.test.targets).double().mean())


def compared(shifted: dict[str, float]) -> list[Finding]:
    """Criteria 4 to 6."""
    told = {name: f"{100 * value:.2f} %" for name, value in shifted.items()}
    plain, frozen, adamw, even = (
        shifted[name] for name in ("SGD", "SGD, frozen embedding", "AdamW", "SGD, layers normalised")
    )
    return [
        Finding(
            "under shift SGD with frozen embedding is at least as accurate as SGD",
            f"{told['SGD, frozen embedding']} against {told['SGD']}",
            frozen >= plain,
        ),
        Finding(
            "under shift SGD with frozen embedding is at most one point below AdamW",
            f"{told['SGD, frozen embedding']} against {told['AdamW']}",
            frozen >= adamw - 0.01,
        ),
        Finding(
            "under shift SGD with normalised layers is at least as accurate as SGD",
            f"{told['SGD, layers normalised']} against {told['SGD']}",
            even >= plain,
        ),
    ]
