"""Vectors as what travels: by a codec where there is one, and as they are where there is none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from shoal.compression import Codec, Memory
from shoal.compression.codec import stack_memory
from shoal.engine.compute import Job, cut
from shoal.tensors.finite import all_finite
from shoal.tensors.layout import Layout, Role
from shoal.tensors.payload import Content, MalformedPayload, Payload, is_finite

CODED: tuple[Role, ...] = ("trainable", "personal")
CHUNK_BYTES = 8 << 20  # rows that are encoded together


@dataclass(frozen=True)
class Packed(Payload):
    """A vector of a model with buffers: the trained part encoded, the rest [m] as it is."""

    coded: Content
    rest: Tensor


@dataclass(eq=False, slots=True)
class PackInputs:
    """One peer's request: a vector [d], what its codec remembers, and the key of its draws."""

    vector: Tensor
    memory: Memory
    key: int


@dataclass(eq=False)
class Packing:
    """Encodes the vectors of many peers together; a result is (payload, new memory).

    Attributes:
        codec: what encodes.
        layout: of the trained part.
    """

    codec: Codec
    layout: Layout
    name: str = field(init=False)
    path: str = "batched"
    why: str = "codecs work on rows"

    def __post_init__(self) -> None:
        self.name = f"encode with {type(self.codec).__name__}"

    def chunks(self, jobs: list[Job]) -> list[list[Job]]:
        """Cut into what fits the cache."""
        return cut(jobs, max(1, CHUNK_BYTES // max(1, 4 * self.layout.size)))

    def run(self, chunk: list[Job]) -> None:
        """Encode; each row gets memory of its own, so that a stack does not live on in one peer's state."""
        rows = torch.stack([job.inputs.vector for job in chunk])
        keys = torch.tensor([job.inputs.key for job in chunk], device=rows.device)
        payloads, memory = self.codec.encode_rows(
            rows, stack_memory([job.inputs.memory for job in chunk]), keys, self.layout
        )
        for i, (job, payload) in enumerate(zip(chunk, payloads, strict=True)):
            job.result = (payload, {name: value[i].clone() for name, value in memory.items()})


class Packer:
    """A codec for vectors of a whole model, buffers included.

    Args:
        codec: None sends vectors as they are.
        layout: of a model's vector.
        device: where vectors are decoded to.
    """

    def __init__(self, codec: Codec | None, layout: Layout, device: torch.device | None = None) -> None:
        self.codec, self.layout, self.device = codec, layout, device
        self.part = layout.part(role=CODED)
        self.whole = self.part.size == layout.size
        self.kernel = None if codec is None else Packing(codec, self.part)

    def split(self, vector: Tensor) -> tuple[Tensor, Tensor | None]:
        """The trained part of a vector [d], and the rest if there is one."""
        if self.whole:
            return vector, None
        return self.layout.select(vector, role=CODED), vector[~self._coded]

    def join(self, part: Tensor, vector: Tensor | None = None) -> Tensor:
        """A vector [d] with this trained part; the rest is that of `vector`, or zeros."""
        if self.whole:
            return part
        result = part.new_zeros(self.layout.size) if vector is None else vector.clone()
        result[self._coded] = part
        return result

    def unpack(self, payload: Content) -> Tensor:
        """A vector [d] from what came.

        Raises:
            MalformedPayload: it is nothing that `pack` would have sent, or holds NaN or infinity.
        """
        return self.unpack_rows([payload])[0]

    def unpack_rows(self, payloads: Sequence[Content]) -> Sequence[Tensor]:
        """Vectors [d] from several payloads; raises as `unpack` if one of them is malformed."""
        if self.codec is None:
            return [self.plain(payload) for payload in payloads]
        if self.whole:
            return self._decode(payloads)
        rows = []
        for payload in payloads:
            if not isinstance(payload, Packed):
                raise MalformedPayload(f"payload: got {type(payload).__name__}; a Packed is needed")
            [coded] = self._decode([payload.coded])
            rest, size = payload.rest, self.layout.size - self.part.size
            if rest.shape != (size,) or rest.dtype != self.layout.dtype:
                raise MalformedPayload(f"payload: rest: got {rest.dtype} {list(rest.shape)}; [{size}] is needed")
            whole = torch.empty(self.layout.size, dtype=rest.dtype, device=coded.device)
            whole[self._coded], whole[~self._coded] = coded, rest.to(coded.device)
            rows.append(whole)
        return rows

    def unpack_all(self, payloads: Mapping[int, Content]) -> tuple[dict[int, Tensor], dict[int, str]]:
        """Peer -> vector, and peer -> what is wrong for those whose payload is malformed."""
        try:
            return dict(zip(payloads, self.unpack_rows(list(payloads.values())), strict=True)), {}
        except MalformedPayload:
            pass
        good, bad = {}, {}
        for peer, payload in payloads.items():
            try:
                good[peer] = self.unpack(payload)
            except MalformedPayload as error:
                bad[peer] = str(error)
        return good, bad

    def _decode(self, payloads: Sequence[Content]) -> Sequence[Tensor]:
        assert self.codec is not None
        if not payloads:
            return []
        try:
            rows = self.codec.decode_rows(payloads, self.part)
        except ValueError as error:
            raise MalformedPayload(str(error)) from error
        if not is_finite(rows):
            raise MalformedPayload("payload: its numbers decode to NaN or infinity")
        return list(rows if self.device is None else rows.to(self.device))

    def plain(self, payload: Content) -> Tensor:
        """A vector [d] that came as it is, without a codec.

        Raises:
            MalformedPayload: it has another form, or holds NaN or infinity.
        """
        layout = self.layout
        if not isinstance(payload, Tensor) or payload.shape != (layout.size,) or payload.dtype != layout.dtype:
            got = f"{payload.dtype} {list(payload.shape)}" if isinstance(payload, Tensor) else type(payload).__name__
            raise MalformedPayload(f"payload: got {got}; {layout.dtype} [{layout.size}] is needed")
        if not all_finite(payload):
            raise MalformedPayload("payload: NaN or infinity")
        return payload

    @cached_property
    def _coded(self) -> Tensor:
        return self.layout.where(role=CODED)
