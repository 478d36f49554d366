"""Codecs: from a vector to what travels, and back.

A codec works on stacked rows, since many peers encode at the same time; one vector is a stack of one. Row i of a stack
gives the same bytes and the same state, bit for bit, whatever the other rows are.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, Literal, TypeAlias

import torch
from torch import Tensor

from shoal.tensors.layout import Layout
from shoal.tensors.payload import Content

Memory: TypeAlias = dict[str, Tensor]
"""What a codec remembers for one sender and channel, by name; stacked [n, ...] where rows are."""
Use: TypeAlias = Literal["model", "update", "gradient"]
USES: tuple[Use, ...] = ("model", "update", "gradient")


class Codec(ABC):
    """Base of codecs: frozen dataclasses whose fields are the settings.

    A layout's segments are the layers; every element of the vector belongs to one. Whole-number buffers, running
    statistics and the like are no codec's business: who packs a model sends those as they are.

    Attributes:
        suits: what it makes sense for. A "model" needs a small relative error; an "update" is a change to a model,
            where what is left out can come later; a "gradient" is an update that no memory of the receiver survives.
        unbiased: whether the decoded vector's expectation over keys is the encoded vector.
        draws: whether the key matters.
        no_feedback: why there must be no error feedback around it; "" if there may be.
    """

    suits: ClassVar[tuple[Use, ...]] = USES
    unbiased: ClassVar[bool] = False
    draws: ClassVar[bool] = False
    no_feedback: ClassVar[str] = ""

    def start(self, layout: Layout, device: torch.device | None = None) -> Memory:
        """What one sender remembers on one channel before it has sent anything; tensors in the layout's dtype."""
        return {}

    @abstractmethod
    def encode_rows(
        self, rows: Tensor, memory: Memory, keys: Tensor, layout: Layout
    ) -> tuple[Sequence[Content], Memory]:
        """Encode a stack.

        Args:
            rows: [n, d], finite; not changed.
            memory: of each row, stacked [n, ...]; not changed.
            keys: int64 [n] for draws, in [0, 2**63).
            layout: of a row.

        Returns:
            A payload for each row, and the new memory, stacked.
        """

    @abstractmethod
    def decode_rows(self, payloads: Sequence[Content], layout: Layout) -> Tensor:
        """Vectors [n, d] in the layout's dtype from payloads, which may come from anybody.

        Raises:
            ValueError: a payload is not what this codec would send for such a layout.
        """

    def left_out(self, rows: Tensor, payloads: Sequence[Content], layout: Layout) -> Tensor:
        """Rows [n, d], which are written into, less what their payloads decode to."""
        return rows.sub_(self.decode_rows(payloads, layout))

    def streams(self, payload: Content, layout: Layout) -> Iterable[Tensor]:
        """The symbols that a payload holds, one tensor for each stream of like symbols.

        The entropy of their frequencies is what a perfect coder of independent symbols would need; `measure` puts it
        beside the payload's size. Tensors of full-precision numbers (scales, values) are streams, too.
        """
        return ()

    def encode(self, x: Tensor, memory: Memory, key: int, layout: Layout) -> tuple[Content, Memory]:
        """`encode_rows` for one vector [d]."""
        stacked = {name: value[None] for name, value in memory.items()}
        payloads, after = self.encode_rows(x[None], stacked, torch.tensor([key], device=x.device), layout)
        return payloads[0], {name: value[0] for name, value in after.items()}

    def decode(self, payload: Content, layout: Layout) -> Tensor:
        """`decode_rows` for one payload: a vector [d]."""
        return self.decode_rows([payload], layout)[0]


def field_of(payload: Content, kind: type, name: str, dtype: torch.dtype, shape: Sequence[int | None]) -> Tensor:
    """A tensor of a payload from anybody, checked.

    Args:
        payload: what came.
        kind: the struct that it must be.
        name: field of the struct.
        dtype: what the tensor must have.
        shape: its sizes; None for one that may be anything.

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(payload, kind):
        raise ValueError(f"payload: got {type(payload).__name__}; a {kind.__name__} is needed")
    value: Tensor = getattr(payload, name)
    fits = isinstance(value, Tensor) and value.dtype == dtype and value.ndim == len(shape)
    if not fits or any(want is not None and size != want for size, want in zip(value.shape, shape, strict=True)):
        got = f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        wanted = ", ".join("*" if size is None else str(size) for size in shape)
        raise ValueError(f"payload: {kind.__name__}.{name}: got {got}; {dtype} [{wanted}] is needed")
    return value


def stacked_field(
    payloads: Sequence[Content], kind: type, name: str, dtype: torch.dtype, shape: Sequence[int]
) -> Tensor:
    """The same field of several payloads, checked as by `field_of` and stacked [n, *shape]."""
    return torch.stack([field_of(payload, kind, name, dtype, shape) for payload in payloads])


def stack_memory(memories: Sequence[Mapping[str, Tensor]]) -> Memory:
    """Memories of several senders as one, stacked."""
    return {name: torch.stack([memory[name] for memory in memories]) for name in memories[0]}
