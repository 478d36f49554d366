"""What a peer tells of itself, again and again: checked before anybody believes it, and text that is safe to show."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

State = Literal["waiting", "running", "finished", "interrupted", "failed"]
SCORES = 8  # metrics that a status may have
WAITS = 4  # things that a peer may say it waits for
NAME = r"\A[A-Za-z0-9][A-Za-z0-9 ._/@+()%:,=-]{0,39}\Z"  # of a metric, and a version
SHORT = 160  # characters of a text

Count = Annotated[int, Meta(ge=0, le=1 << 62)]
Round = Annotated[int, Meta(ge=0, le=1 << 31)]
Name = Annotated[str, Meta(pattern=NAME, max_length=40)]


class MalformedStatus(ValueError):
    """What was told is no status; the text says what is wrong with it."""


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """What a peer says about itself. Fields that a later version may add are left out.

    Attributes:
        peer: its id.
        state: where it is in its protocol.
        round: the first that it has not finished.
        scores: last evaluated metrics by name, finite.
        scored: the round after which they were evaluated.
        sent, received: bytes of messages since it was started.
        refused: malformed frames since it was started.
        waits: what its protocol waits for, in words.
        lives: how often it has been started.
        here: how many others are connected with it.
        version: of Shoal.
    """

    peer: Round
    state: State
    round: Round = 0
    scores: Annotated[dict[Name, float], Meta(max_length=SCORES)] = {}
    scored: Round = 0
    sent: Count = 0
    received: Count = 0
    refused: Count = 0
    waits: Annotated[list[Annotated[str, Meta(max_length=SHORT)]], Meta(max_length=WAITS)] = []
    lives: Annotated[int, Meta(ge=1, le=1 << 31)] = 1
    here: Round = 0
    version: Name | None = None

    @classmethod
    def read(cls, sender: int, content: Any) -> Status:
        """The status in what a peer told.

        Args:
            sender: who told it, as the transport knows.
            content: anything.

        Raises:
            MalformedStatus: it is none, or somebody else's.
        """
        if not isinstance(content, dict):
            raise MalformedStatus(f"status: got {type(content).__name__}; a dict is needed")
        known = {name: content[name] for name in cls.__struct_fields__ if name in content}
        for name, value in known.items():
            if not _plain(value):  # a tensor would be taken for a dict, and answer to no method of one
                raise MalformedStatus(f"status with {name} of something else than numbers and texts")
        try:
            status = msgspec.convert(known, cls)
        except (msgspec.ValidationError, RecursionError) as error:
            raise MalformedStatus(clean(str(error))) from None
        if status.peer != sender:
            raise MalformedStatus(
                f"status of peer {status.peer}, told by peer {sender}: everybody tells their own only"
            )
        for name, value in status.scores.items():
            if not math.isfinite(value):
                raise MalformedStatus(f"status with {name} = {value}; a finite number is needed")
        return msgspec.structs.replace(status, waits=[clean(text) for text in status.waits])

    def content(self) -> dict[str, Any]:
        """As it is told."""
        told: dict[str, Any] = msgspec.to_builtins(self)
        return told


def _plain(content: Any, depth: int = 4) -> bool:
    """Whether it is numbers and texts only, in lists and dictionaries: other things may do anything when looked at."""
    if depth and type(content) in (dict, list, tuple):
        values = content.values() if type(content) is dict else content
        return all(_plain(value, depth - 1) for value in values)
    return content is None or type(content) in (bool, int, float, str)


def clean(text: str, limit: int = SHORT) -> str:
    """Text from anywhere, fit for a line on a page or at a terminal.

    Control characters (escape sequences begin with one), marks that turn the direction of writing or stack upon each
    other, and all white space but single spaces are taken out; at most `limit` characters are left.

    >>> clean("peer\\x1b[31m 3\\n is  late")
    'peer[31m 3 is late'
    """
    head = text[: 4 * limit]
    kept = "".join(c if c.isprintable() else " " if c.isspace() else "" for c in head if not _stacks(c))
    line = " ".join(kept.split())
    return line if len(line) <= limit and len(head) == len(text) else line[: limit - 1] + "…"


def _stacks(c: str) -> bool:
    return unicodedata.category(c)[0] == "M"


def described(details: Mapping[str, Any], limit: int = SHORT) -> str:
    """The details of an entry of a log as one line: "why: it was cut, count: 3"."""
    return clean(", ".join(_shown(details.items())), limit)


def _shown(items: Iterable[tuple[str, Any]]) -> Iterable[str]:
    for name, value in items:
        if isinstance(value, float):
            yield f"{name}: {value:.4g}"
        elif value is not None:
            yield f"{name}: {str(value)[: 4 * SHORT]}"
