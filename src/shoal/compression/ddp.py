"""Codecs in torch's DistributedDataParallel: a communication hook.

    model = DistributedDataParallel(model)
    state, hook = ddp_hook(ErrorFeedback(Sign()))
    model.register_comm_hook(state, hook)

Each bucket of gradients is encoded with a memory of its own, the bytes of all processes are gathered, and every process
takes the mean of all that it decodes, its own included, in the order of the ranks: replicas stay identical bit for bit.
The hook waits for the others, so that communication does not overlap with the backward pass; and it gathers where plain
DDP reduces, so that with n processes each receives n - 1 payloads in place of about 2 (n - 1) / n vectors.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import GradBucket

from shoal.compression.codec import Codec, Memory
from shoal.compression.gathering import gather
from shoal.tensors.layout import Layout
from shoal.tensors.payload import Content, decode, encode, is_finite
from shoal.tensors.random import key

Params: TypeAlias = tuple[int, ...]
Hook: TypeAlias = Callable[["HookState", GradBucket], torch.futures.Future[Tensor]]


@dataclass(eq=False)
class HookState:
    """What the hook of one process remembers and has counted.

    Attributes:
        codec: what encodes.
        seed: of the draws; every process and bucket draws by itself.
        group: the processes; None for all.
        sent: bytes that this process has handed over to be sent to each of the others, sizes included.
        plain: bytes of the gradients themselves.
        calls: buckets so far.
    """

    codec: Codec
    seed: int = 0
    group: Any = None
    sent: int = 0
    plain: int = 0
    calls: int = 0
    memories: dict[Params, tuple[Layout, Memory]] = field(default_factory=dict, repr=False)

    def memory_of(self, params: Params, layout: Layout, device: torch.device) -> Memory:
        """The memory of a bucket.

        DDP forms its buckets anew after the first backward pass; what belongs to a parameter moves with it.
        """
        if params in self.memories:
            return self.memories[params][1]
        memory = self.codec.start(layout, device)
        for old, (old_layout, old_memory) in self.memories.items():
            for param, segment in zip(old, old_layout, strict=True):
                if param in params:
                    place = layout[str(params.index(param))]
                    for name in memory.keys() & old_memory.keys():
                        if memory[name].shape == (layout.size,) and old_memory[name].shape == (old_layout.size,):
                            memory[name][place.slice] = old_memory[name][segment.slice]
        return memory

    def forget(self) -> None:
        """Let go of memories of buckets all of whose parameters are in later ones."""
        later: set[int] = set()
        for params in reversed(list(self.memories)):
            if later.issuperset(params):
                del self.memories[params]
            later.update(params)


def ddp_hook(codec: Codec, seed: int = 0, group: Any = None) -> tuple[HookState, Hook]:
    """A state and a hook for `DistributedDataParallel.register_comm_hook`.

    Args:
        codec: one that suits gradients; the same in every process.
        seed: of the codec's draws, in [0, 2**63).
        group: the process group that the model was given; None for the default one.

    Returns:
        The state, which counts bytes, and the hook. One pair is for one model.

    Raises:
        ValueError: the codec is none, or is not for gradients.
        RuntimeError: from the backward pass of every process, if a gradient of one of them is not finite or a payload
            is malformed. A GradScaler, which steps over infinite gradients, cannot be used with it.
    """
    if not isinstance(codec, Codec):
        raise ValueError(f"codec: got {type(codec).__name__}; a Codec is needed, such as ErrorFeedback(Sign())")
    if "gradient" not in codec.suits:
        raise ValueError(f"codec: {type(codec).__name__} is for {', '.join(codec.suits)}; gradients are not among them")
    return HookState(codec, key(seed), group), _hook


# No postponed annotations in this file: torch compares them with its own classes.
def _hook(state: HookState, bucket: GradBucket) -> torch.futures.Future[Tensor]:
    """The mean of all processes' gradients of one bucket."""
    if not isinstance(bucket, GradBucket):
        raise ValueError(f"bucket: got {type(bucket).__name__}; this hook is for DistributedDataParallel alone")
    gradient = bucket.buffer()
    if gradient.layout != torch.strided or not gradient.is_floating_point():
        raise ValueError(f"bucket: got {gradient.dtype}, {gradient.layout}; dense real gradients are needed")
    params = tuple(id(param) for param in bucket.parameters())
    shapes = {str(i): tuple(param.shape) for i, param in enumerate(bucket.parameters())}
    layout = Layout.from_shapes(shapes, dtype=gradient.dtype)
    if layout.size != gradient.numel():
        raise ValueError(f"bucket: {gradient.numel()} entries for parameters of {layout.size}")
    rank = dist.get_rank(state.group)
    data = None
    if is_finite(gradient):
        memory = state.memory_of(params, layout, gradient.device)
        draw = key(state.seed, "ddp", rank, state.calls)
        payload, after = state.codec.encode(gradient, memory, draw, layout)
        data = encode(payload)
        state.memories[params] = (layout, after)
        state.forget()
    state.calls += 1
    state.plain += gradient.numel() * gradient.element_size()
    state.sent += 8 + len(data or b"")
    payloads = gather(data, gradient.device, state.group)
    mean = torch.zeros_like(gradient)
    for sender, got in enumerate(payloads):
        row = _decoded(state.codec, got, layout, sender)
        mean += row.to(gradient.device)
    future: torch.futures.Future[Tensor] = torch.futures.Future()
    future.set_result(mean.div_(len(payloads)))
    return future


def _decoded(codec: Codec, data: bytes, layout: Layout, sender: int) -> Tensor:
    try:
        payload: Content = decode(data)
        row = codec.decode(payload, layout)
    except ValueError as error:
        raise ValueError(f"payload of rank {sender}: {error}") from error
    if not is_finite(row):
        raise ValueError(f"payload of rank {sender}: its numbers decode to NaN or infinity")
    return row
