"""Things with names: where they are, and what is known about them before they are imported."""

from __future__ import annotations

import importlib
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Entry:
    """One thing with a name.

    Attributes:
        target: "package.module:attribute", or "package.module:attribute.attribute".
        help: one line.
        positional: names of the arguments that may follow the colon without a name, as in `dirichlet:0.3`.
    """

    target: str
    help: str
    positional: tuple[str, ...] = ()

    def load(self) -> Any:
        """Import and return it."""
        return at(self.target)


Table = Mapping[str, Entry]


@dataclass(frozen=True)
class Method(Entry):
    """An optimizer: the target is the `rule` of its class.

    Attributes:
        state: bytes of state for a matrix [m, n] in float32, with the class's own settings; to 2% for large matrices.
        paper: slug of the publication, if it is in the catalogue.
        needs: what it asks for beside gradients, in words; "" for nothing.
        lr: where to begin looking for a learning rate, if not at the class's own.
    """

    positional: tuple[str, ...] = ("lr",)
    state: Callable[[int, int], float] = lambda m, n: 8 * m * n
    paper: str = ""
    needs: str = ""
    lr: float | None = None

    def cls(self) -> Any:
        """The class."""
        return at(self.target.removesuffix(".rule"))

    @property
    def bytes_per_parameter(self) -> float:
        """Bytes of state a parameter of a matrix [1024, 1024] in float32."""
        return self.state(1024, 1024) / 1024**2


@dataclass(frozen=True)
class Wrapping(Entry):
    """What goes around optimizers.

    Attributes:
        paper: slug of the publication.
        needs: what it asks for, in words; "" for nothing.
    """

    paper: str = ""
    needs: str = ""


@dataclass(frozen=True)
class Wrapped(Entry):
    """An optimizer within others: `lookahead+cautious+lion`.

    Attributes:
        wrappers: from rules to rules, the outermost first.
        inner: the optimizer.
    """

    wrappers: tuple[Entry, ...] = ()
    inner: Method | None = None

    def load(self) -> Any:
        """A function from settings, those of the optimizer and those of the wrappers, to the rule."""
        import inspect

        assert self.inner is not None
        make, arguments = self.inner.load(), self.inner.cls().arguments
        wraps = [entry.load() for entry in self.wrappers]

        def rule(**settings: Any) -> Any:
            own = []
            for wrap in wraps:
                names = [name for name in list(inspect.signature(wrap).parameters)[1:] if name not in arguments]
                own.append({name: settings.pop(name) for name in names if name in settings})
            made = make(**settings)
            for wrap, some in zip(reversed(wraps), reversed(own), strict=True):
                made = wrap(made, **some)
            return made

        return rule


@dataclass(frozen=True)
class Around(Entry):
    """A thing within others, as `ef+topk`; the settings are those of the innermost.

    Attributes:
        wrappers: from a thing to a thing, the outermost first.
    """

    wrappers: tuple[Entry, ...] = ()

    def load(self) -> Any:
        """A function from the settings to the whole."""
        make, wraps = at(self.target), [entry.load() for entry in self.wrappers]

        def whole(**settings: Any) -> Any:
            made = make(**settings)
            for wrap in reversed(wraps):
                made = wrap(made)
            return made

        return whole


def at(target: str) -> Any:
    """Import what "package.module:attribute" names."""
    module, _, attribute = target.partition(":")
    return operator.attrgetter(attribute)(importlib.import_module(module))
