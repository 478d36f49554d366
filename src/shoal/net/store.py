"""What a real peer keeps on disk: its last committed state, and how often it has lived."""

from __future__ import annotations

from pathlib import Path

from shoal.engine.state import State
from shoal.files import write_durably
from shoal.tensors.payload import MalformedPayload, decode, encode
from shoal.text import shown

STATE, LIVES = "state.bin", "lives.bin"


class Store:
    """A folder with a peer's durable state. A file in it is whole, or is not there.

    Args:
        folder: made if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def begin_life(self) -> int:
        """Count a start of the peer; returns how many there were, 1 at first.

        Raises:
            ValueError: the folder holds something else under that name.
        """
        path = self.folder / LIVES
        lives = (_read(path) if path.exists() else 0) + 1
        write_durably(path, encode(lives))
        return lives

    def save(self, state: bytes) -> None:
        """Keep a state, as `Snapshot.encode` gives it, in place of the one before; durable when this returns."""
        write_durably(self.folder / STATE, state)

    def load(self) -> State | None:
        """The state that was kept last, or None.

        Raises:
            ValueError: the file is damaged.
        """
        path = self.folder / STATE
        if not path.exists():
            return None
        try:
            return State.restore(path.read_bytes())
        except MalformedPayload as error:
            raise ValueError(f"{path}: is damaged ({error}); remove it to begin anew") from None


def _read(path: Path) -> int:
    try:
        value = decode(path.read_bytes(), limit=1 << 10)
    except MalformedPayload as error:
        raise ValueError(f"{path}: is damaged ({error}); remove it to begin anew") from None
    if type(value) is not int or value < 0:
        raise ValueError(f"{path}: holds {shown(value)} instead of a number; remove it to begin anew")
    return value
