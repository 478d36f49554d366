"""Durable state: what survives a crash, as bytes.

A `State` is a dictionary of named payloads (tensors, numbers, text, and dictionaries of these). Tensors in it are
values: replace them, never change them in place. `commit` keeps references, which costs nothing; only when a peer
comes back is the snapshot turned into bytes and rebuilt from them, so that nothing alive can leak through a crash.
A tensor that was changed in place after the commit is found by its version counter and refused.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from shoal.engine.errors import Mutated
from shoal.tensors.payload import decode, encode, encoded_size, tensors


class Snapshot:
    """What one commit kept."""

    __slots__ = ("_values", "_versions")

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = {name: _frozen(value) for name, value in values.items()}
        found: list[Tensor] = []
        encoded_size(self._values, found)  # refuses at once, in the peer that commits it, what could never be restored
        self._versions = [tensor._version for tensor in found]

    def encode(self) -> bytes:
        """The snapshot as bytes.

        Raises:
            Mutated: a committed tensor was changed in place.
        """
        if self._versions != [tensor._version for tensor in tensors(self._values)]:
            raise Mutated(
                "me.state: a committed tensor was changed in place; assign a new one instead (me.model = me.model * 2)"
            )
        return encode(self._values)


class State(dict[str, Any]):
    """Named payloads of one peer; see the module's docstring."""

    def snapshot(self) -> Snapshot:
        """What a commit at this moment keeps."""
        return Snapshot(self)

    @staticmethod
    def restore(data: bytes) -> State:
        """The state that `Snapshot.encode` wrote.

        Raises:
            MalformedPayload: the bytes are not such a state.
        """
        return State(decode(data, limit=len(data)))


def _frozen(value: Any) -> Any:
    """Containers copied, tensors and scalars as they are."""
    if isinstance(value, dict):
        return {name: _frozen(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_frozen(inner) for inner in value]
    if isinstance(value, tuple):  # a named one as well: it travels as a plain tuple
        return tuple(_frozen(inner) for inner in value)
    return value
