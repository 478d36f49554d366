"""Fine-tuning by SGD with a frozen embedding layer, and with layers that are unfrozen one after the other.

A. Kumar, R. Shen, S. Bubeck, S. Gunasekar, "How to Fine-Tune Vision Models with SGD", arXiv:2211.09359 (2022): in
pretrained transformers and ConvNeXts the first layer's gradients are far larger than those of the others, so that a
rate that suits these breaks it. With that layer frozen SGD does as well as AdamW, with less memory.

What is frozen has no gradient, and so neither steps nor weight decay: torch's optimizers and those of `shoal.optim`
leave it as it is, bit for bit, and in simulations it is a frozen segment of the model's vector. The statistics of batch
normalisation are no parameters; `eval()` keeps them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from shoal.optim.core.arguments import whole
from shoal.text import shown

_TABLES = (nn.Embedding, nn.EmbeddingBag)
_POSITIONS = re.compile(r"(^|_)pos|position|wpe", re.IGNORECASE)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def embedding_names(model: nn.Module) -> list[str]:
    """The names of a model's embedding parameters, in the model's order.

    They are those of all `nn.Embedding` but tables of positions; without any, those of the first convolution, with the
    normalisation right after it in the same module (a stem); without any of that, those of the linear layers called
    `embed`, `patch_embed` or alike. Class tokens and positions are not among them.

    Args:
        model: a text model, a vision transformer, a convolutional network.

    Raises:
        ValueError: there is no such layer, or `model` is no module.
    """
    _check(model)
    modules = list(model.named_modules())
    layers = [name for name, m in modules if isinstance(m, _TABLES) and not _POSITIONS.search(name.rpartition(".")[2])]
    if not layers:
        layers = _stem(modules)
    if not layers:
        layers = [name for name, m in modules if isinstance(m, nn.Linear) and "embed" in name.lower()]
    own = {id(p) for name in layers for p in model.get_submodule(name).parameters()}
    found = [name for name, p in model.named_parameters() if id(p) in own]
    if not found:
        raise ValueError("model: got one without nn.Embedding, convolution or layer called embed; names= is needed")
    return found


def _stem(modules: Sequence[tuple[str, nn.Module]]) -> list[str]:
    """The first convolution, and the normalisation beside it that comes next."""
    weighted = [(name, m) for name, m in modules if next(m.parameters(recurse=False), None) is not None]
    at = next((i for i, (_, m) in enumerate(weighted) if isinstance(m, _CONVOLUTIONS)), None)
    if at is None:
        return []
    (name, _), after = weighted[at], weighted[at + 1 : at + 2]
    return [name, *(other for other, m in after if "Norm" in type(m).__name__ and _parent(other) == _parent(name))]


def _parent(name: str) -> str:
    return name.rpartition(".")[0]


def freeze_embeddings(model: nn.Module, names: Iterable[str] | None = None) -> list[str]:
    """Freeze the embedding layer of a pretrained model: SGD (freeze-embed).

    Args:
        model: it is changed: `requires_grad` of the parameters, whose gradients are dropped.
        names: of the parameters to freeze, with `*` as in file names; None: those of `embedding_names`.

    Returns:
        The names of what was frozen now and not before; `unfreeze` with these makes it undone.

    Raises:
        ValueError: a name is of no parameter, or the layer is not found, or `model` is no module.
    """
    chosen = embedding_names(model) if names is None else _matching(model, names)
    frozen = []
    for name, p in model.named_parameters():
        if name in chosen and p.requires_grad:
            p.requires_grad_(False)
            p.grad = None
            frozen.append(name)
    return frozen


def unfreeze(model: nn.Module, names: Iterable[str]) -> list[str]:
    """Make parameters trainable again.

    Args:
        model: whose.
        names: of parameters, with `*` as in file names.

    Returns:
        The names of those that were frozen before.

    Raises:
        ValueError: a name is of no parameter, or `model` is no module.
    """
    chosen = _matching(model, names)
    thawed = []
    for name, p in model.named_parameters():
        if name in chosen and not p.requires_grad:
            p.requires_grad_(True)
            thawed.append(name)
    return thawed


def _check(model: nn.Module) -> None:
    if not isinstance(model, nn.Module):
        raise ValueError(f"model: got {type(model).__name__}; a torch.nn.Module is allowed")


def _matching(model: nn.Module, patterns: Iterable[str]) -> set[str]:
    _check(model)
    names = [name for name, _ in model.named_parameters()]
    found: set[str] = set()
    chosen = list(patterns) if isinstance(patterns, Iterable) and not isinstance(patterns, str) else [patterns]
    for pattern in chosen:
        if not isinstance(pattern, str):
            raise ValueError(f"names: got {shown(pattern)}; strings are allowed, such as {', '.join(names[:3])}")
        some = [name for name in names if name == pattern or fnmatchcase(name, pattern)]
        if not some:
            raise ValueError(f"names: got {pattern!r}; names of parameters are allowed, such as {', '.join(names[:3])}")
        found.update(some)
    return found


def blocks(model: nn.Module) -> list[list[str]]:
    """Names of parameters, block by block from the input to the output: the model's children, lists item by item.

    Parameters that the model owns by itself (positions, class tokens) belong to the first block.

    Raises:
        ValueError: `model` is no module.
    """
    _check(model)
    starts: list[str] = []
    for name, child in model.named_children():
        listed = isinstance(child, nn.ModuleList | nn.Sequential)
        starts += [f"{name}.{index}." for index, _ in child.named_children()] if listed else [f"{name}."]
    names = [name for name, _ in model.named_parameters()]
    parts = [[name for name in names if name.startswith(start)] for start in starts]
    parts = [part for part in parts if part] or [[]]
    taken = {name for part in parts for name in part}
    parts[0] = [name for name in names if name not in taken] + parts[0]
    return [part for part in parts if part]


class GradualUnfreezing:
    """Trains the last block first, and one more block towards the input every `every` steps.

        unfreezing = GradualUnfreezing(model, every=100)
        for batch in batches:
            ...
            optimizer.step()
            unfreezing.step()

    `state_dict` and `load_state_dict` serve checkpoints; who resumes makes model, optimizer and this as at first.

    J. Howard, S. Ruder, "Universal Language Model Fine-tuning for Text Classification", arXiv:1801.06146 (2018). The
    optimizer is made with all parameters before; what is frozen already stays so, as the embedding that
    `freeze_embeddings` froze.

    Args:
        model: it is changed.
        every: steps of each stage, a whole number >= 1.
        groups: names of parameters from input to output, each in one group at most; None: `blocks(model)`.

    Raises:
        ValueError: an argument is not allowed.
    """

    def __init__(self, model: nn.Module, every: int, groups: Sequence[Iterable[str]] | None = None) -> None:
        if not whole(1)(every):
            raise ValueError(f"every: got {every!r}; a whole number >= 1 is allowed")
        chosen = blocks(model) if groups is None else [sorted(_matching(model, group)) for group in groups]
        if not chosen:
            raise ValueError("groups: got none; at least one is needed")
        twice = sorted(name for name, times in Counter(name for part in chosen for name in part).items() if times > 1)
        if twice:
            raise ValueError(f"groups: got {twice[0]} twice; a parameter in one group is allowed")
        trained = {name for name, p in model.named_parameters() if p.requires_grad}
        self._model, self._every = model, every
        self._groups = [[name for name in group if name in trained] for group in chosen]
        self.steps = 0
        waiting = [name for group in self._groups[:-1] for name in group]
        freeze_embeddings(model, waiting)

    @property
    def trained(self) -> int:
        """The number of groups, from the output on, that are trained at this step."""
        return min(len(self._groups), 1 + self.steps // self._every)

    def step(self) -> list[str]:
        """Count a step; returns the names of what is trained from here on and was not before."""
        before = self.trained
        self.steps += 1
        if self.trained == before:
            return []
        return unfreeze(self._model, self._groups[-self.trained])

    def state_dict(self) -> dict[str, Any]:
        """How far it is: numbers and names, for a checkpoint beside those of model and optimizer."""
        return {"steps": self.steps, "every": self._every, "groups": [list(group) for group in self._groups]}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on where another one was: its groups are trained again, the others are frozen.

        Args:
            state_dict: of one with the same groups and the same `every`, as it is made with the model at its start.

        Raises:
            ValueError: it is another one's, or none; nothing is changed then.
        """
        own = self.state_dict()
        for name, value in own.items():
            got = state_dict.get(name)
            if name == "steps" and not whole(0)(got):
                raise ValueError(f"state_dict: got steps {got!r}; a whole number >= 0 is allowed")
            if name != "steps" and got != value:
                raise ValueError(f"state_dict: got {name} {shown(got)}; {shown(value)} is allowed")
        self.steps = state_dict["steps"]
        waiting = len(self._groups) - self.trained
        for number, group in enumerate(self._groups):
            (freeze_embeddings if number < waiting else unfreeze)(self._model, group)
