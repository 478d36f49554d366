"""Chains of one's own: transforms, rules and optimizers put together to a new optimizer."""

from __future__ import annotations

import dataclasses

from shoal.optim.core import Chain, Optimizer, Param, Rule, Transform
from shoal.optim.core.arguments import check
from shoal.text import shown

Link = Transform | Rule | type[Optimizer]


def chain(*links: Link, lr: float = 1e-3, name: str = "Chained") -> type[Optimizer]:
    """An optimizer class that applies the links one after the other: p <- p - lr u, with u the gradient after them.

    Args:
        links: transforms; rules and optimizer classes stand for the transforms of their chains, a class for those of
            its default settings; the learning rate of either does not count.
        lr: default learning rate.
        name: of the class.

    Returns:
        A class like those of `shoal.optim`: `Mine(params, lr=...)` is a torch optimizer, `Mine.rule(lr)` its rule for
        stacked peers.

    Raises:
        ValueError: a link is none of these, or there is none, or a transform has no number where it needs one.

    >>> import torch
    >>> from shoal.optim import AdamScaling, CautiousMask, DecoupledDecay, chain
    >>> Mine = chain(DecoupledDecay(0.1), AdamScaling(eps=1e-6), CautiousMask(), lr=3e-4)
    >>> optimizer = Mine(torch.nn.Linear(3, 2).parameters())
    >>> optimizer.param_groups[0]["lr"]
    0.0003
    """
    if not links:
        raise ValueError("links: got none; at least one is needed")
    parts: list[Transform | Rule] = []
    for link in links:
        if isinstance(link, type) and issubclass(link, Optimizer) and "lr" in link.arguments:
            parts.append(link.rule())
        elif isinstance(link, Transform):
            _check_fields(link)
            parts.append(link)
        elif isinstance(link, Rule) and link.frame is None:
            parts.append(link)
        else:
            raise ValueError(f"links: got {link!r}; transforms, rules and optimizer classes are allowed")

    def flat(param: Param) -> Chain:
        return tuple(t for part in parts for t in (part.plan(param).chain if isinstance(part, Rule) else (part,)))

    check(Optimizer, {"lr": lr})
    body = {
        "__annotations__": {"lr": float},
        "__doc__": " -> ".join(type(part).__name__ if isinstance(part, Transform) else part.name for part in parts),
        "__module__": __name__,
        "lr": lr,
        "links": classmethod(lambda cls, h, param: flat(param)),
    }
    return type(name, (Optimizer,), body)


def _check_fields(link: Transform) -> None:
    """Refuse a transform with text or nothing where it says that it takes a number, and what is no dataclass."""
    if not dataclasses.is_dataclass(link):
        raise ValueError(f"links: got {type(link).__name__}, which is no dataclass; frozen ones are allowed")
    for field in dataclasses.fields(link):
        value = getattr(link, field.name)
        if field.type in ("int", "float", int, float) and not isinstance(value, int | float):
            raise ValueError(f"links: got {field.name} = {shown(value)} of {type(link).__name__}; a number is allowed")
