"""TernGrad: workers send gradients of three levels, and get back sums of these with a common scale.

    worker i, each layer:   g_i <- sign(g_i) min(|g_i|, c sigma_i)       s = max_i max_k |g_ik|
                            t_ik = sign(g_ik) with probability |g_ik| / s, else 0              up: t_i
    all:                    the optimizer's step along s (1/N) sum_i t_i                       down: sum_i t_i and s

W. Wen, C. Xu, F. Yan, C. Wu, Y. Wang, Y. Chen, H. Li, "TernGrad: Ternary Gradients to Reduce Communication in
Distributed Deep Learning", 2017 (arXiv 1705.07878). Up go 1.6 bits an entry; down, ceil(log2(2N + 1)) bits. Scales are
shared so that sums stay whole numbers: the workers' maxima go up over the channel "scales", one number a layer, and
their maximum comes back with the question for trits.

All layers are ternary; the authors' code leaves the last one in full precision. With scales of one's own, `ParallelSGD`
and the codec `ternary` do the same with sums in full precision.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from shoal.compression.codec import field_of
from shoal.compression.symbols import Symbols, pack_sum, unpack_sum
from shoal.compression.ternary import check_clip, clipped, maxima, packed_trits, scaled
from shoal.learning import Learner
from shoal.protocols.compressed.replicas import Replicated
from shoal.protocols.needs import Needs
from shoal.tensors.packing import packed_trits_size, unpack_trits
from shoal.tensors.payload import Content, MalformedPayload, Payload, expect, expect_whole, is_finite


@dataclass(frozen=True)
class Scales(Payload):
    """The question for trits of a step, with the scale of each layer [layers]."""

    step: int
    scales: Tensor


@dataclass(frozen=True)
class TritSum(Payload):
    """The sum of several workers' trits, and their scale for each layer [layers]."""

    total: Symbols
    scales: Tensor


@dataclass(frozen=True)
class TernGrad(Replicated):
    """Each round one step of all replicas, with the run's optimizer (a stackable `Rule`).

    Attributes:
        clip: c, the standard deviations of a layer beyond which its entries are cut off, above 0; None: none are.
        timeout: virtual seconds to wait for the workers; None waits as long as the world warrants.
    """

    clip: float | None = 2.5
    needs: ClassVar[Needs] = Needs(server=True, requests=True)
    shares: ClassVar[tuple[str, ...]] = ("steps", "optimizer")
    asks: ClassVar[str] = "scales"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_clip(self.clip)

    def serve(self, me: Learner) -> None:
        """A worker's part."""
        super().serve(me)
        me.serve("up", partial(self.trits, me), asker=me.server)

    async def collect(self, me: Learner) -> dict[int, Content]:
        """First everybody's maxima, then trits of a common scale."""
        answers = await super().collect(me)
        own = me.read_all(answers, lambda payload: checked_scales(me, payload))
        if not own:
            return {}
        me.state["scales"] = scales = torch.stack(list(own.values())).amax(0)
        question = Scales(self.at(me), scales)
        trits = await me.request_all(list(own), question, "up", timeout=self.timeout)
        return {i: trits[i] for i in sorted(trits) if trits[i] is not None}

    def message(self, me: Learner, g: Tensor) -> Content:
        """The maxima of the clipped gradient, which is kept for the question that comes next."""
        me.state["gradient"] = clipped(g, me.packer.part, self.clip)
        return maxima(me.state["gradient"], me.packer.part)

    def trits(self, me: Learner, sender: int, question: Any) -> Content:
        """A worker's trits of the gradient of a step; None if it has another one."""
        question = expect(question, Scales)
        step, layout = expect_whole("step", question.step), me.packer.part
        if self.at(me) != step or me.state.get("sent", {}).get("step") != step:
            return None
        g: Tensor = me.state["gradient"]
        try:
            scales = checked_scales(me, question.scales)
        except ValueError as error:
            raise MalformedPayload(str(error)) from error
        if bool((scales < maxima(g, layout)).any()):
            raise MalformedPayload("scales: got one below the largest entry of its layer")
        return packed_trits(g, scales, me.key("trits", step), layout)

    def read(self, me: Learner, message: Content) -> Tensor:
        """Trits, int8 [m]."""
        if not isinstance(message, Tensor) or message.shape != (packed_trits_size(me.packer.part.size),):
            raise ValueError("payload: packed trits are needed")
        return unpack_trits(message, me.packer.part.size)

    def combine(self, me: Learner, messages: Mapping[int, Tensor]) -> Content:
        """Their sum."""
        total = torch.stack(list(messages.values())).sum(0, dtype=torch.int32)
        return TritSum(pack_sum(total, len(messages)), me.state["scales"])

    def step(self, me: Learner, workers: int, content: Content) -> None:
        """The optimizer's step along the mean."""
        layout = me.packer.part
        scales = checked_scales(me, field_of(content, TritSum, "scales", layout.dtype, [None]))
        assert isinstance(content, TritSum)
        total = unpack_sum(content.total, layout.size, workers)
        me.step(me.packer.join(scaled(total, scales / workers, layout)))


def checked_scales(me: Learner, payload: Content) -> Tensor:
    """A scale for each layer [layers], finite and not negative; raises ValueError for anything else."""
    layers, dtype = len(me.packer.part), me.packer.part.dtype
    if not isinstance(payload, Tensor) or payload.shape != (layers,) or payload.dtype != dtype:
        raise ValueError(f"scales: one for each of {layers} layers is needed, in {dtype}")
    if not is_finite(payload) or bool((payload < 0).any()):
        raise ValueError("scales: got a negative one, or NaN or infinity")
    return payload
