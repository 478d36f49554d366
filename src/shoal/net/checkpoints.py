"""Committed states by round, so that peers that go in step can go back to a round that all of them have."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Callable
from typing import Any

from shoal.engine.state import State
from shoal.files import write_durably
from shoal.net.store import Store
from shoal.tensors.payload import MalformedPayload, decode, encode

NAME = "round-{}.bin"


class Checkpoints(Store):
    """A folder with a peer's states after several rounds. A file in it is whole, or is not there."""

    def rounds(self) -> list[int]:
        """The rounds after which a state was kept, in order."""
        found = (re.fullmatch(r"round-(\d+)\.bin", path.name) for path in self.folder.iterdir())
        return sorted(int(match[1]) for match in found if match)

    def keep(self, round: int, state: bytes, world: dict[str, Any], least: int) -> None:
        """Keep a state, as `Snapshot.encode` gives it; durable when this returns.

        Args:
            round: after which it was committed.
            state: of the peer.
            world: what its world wants to know again.
            least: states of rounds before it are needed no more.
        """
        write_durably(self.folder / NAME.format(round), encode({"world": world, "state": state}))
        self._drop(lambda other: other < least and other != round)

    def go_back(self, round: int) -> tuple[State, dict[str, Any]]:
        """The state that was kept after a round, and what belongs to it; those of later rounds are dropped.

        Raises:
            ValueError: the file is missing or damaged.
        """
        path = self.folder / NAME.format(round)
        try:
            content = decode(path.read_bytes())
            found = State.restore(content["state"]), dict(content["world"])
        except (OSError, MalformedPayload, TypeError, KeyError) as error:
            raise ValueError(f"{path}: cannot be read ({error}); remove {self.folder} to begin anew") from None
        self._drop(lambda other: other > round)
        return found

    def begin_anew(self) -> None:
        """Drop all states."""
        self._drop(lambda other: True)

    def remove(self) -> None:
        """Drop everything, and the folder, and the one around it with the last one in it."""
        shutil.rmtree(self.folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            self.folder.parent.rmdir()

    def _drop(self, condition: Callable[[int], bool]) -> None:
        for round in self.rounds():
            if condition(round):
                (self.folder / NAME.format(round)).unlink(missing_ok=True)
