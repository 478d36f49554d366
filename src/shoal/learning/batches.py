"""Which samples a step sees: a stateless, endless, shuffled stream for each peer, computed for many peers at once.

A peer's stream is one random permutation of its shard after the other, keyed by (peer, epoch). The element at any
position is computed directly, so that a step can be repeated, skipped to or recomputed by somebody else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from shoal.learning.data import Data
from shoal.tensors.random import shuffled

BLOCK = 1 << 18  # index entries computed at a time


@dataclass(frozen=True, eq=False)
class Shard:
    """What one peer holds: rows `indices` [m] of `data`.

    Attributes:
        data: samples, as a rule shared by many peers and never changed.
        indices: int64 [m], m >= 1.
    """

    data: Data
    indices: Tensor

    def __len__(self) -> int:
        return self.indices.numel()


class Schedule(NamedTuple):
    """The batches of one training request.

    Attributes:
        key: key of the peer's stream.
        size: samples in the shard.
        batch: rows of a batch, padding included.
        steps: number of steps.
        position: samples drawn so far, in steps of a stream; first epoch, in whole epochs.
        per_epoch: None to go on in the stream; else number of batches in an epoch, of which the last may be ragged.
        skip: steps of the request that were done before.
    """

    key: int
    size: int
    batch: int
    steps: int
    position: int
    per_epoch: int | None = None
    skip: int = 0

    @property
    def position_after(self) -> int:
        """Samples drawn when all steps are done."""
        done = self.skip + self.steps
        if self.per_epoch is None:
            return self.position + done * self.batch
        passes, batches_more = divmod(done, self.per_epoch)
        return self.size * (self.position + passes) + min(self.size - 1, batches_more * self.batch)


def stream(key: int, size: int, batch: int, steps: int, position: int) -> Schedule:
    """`steps` batches of `batch` samples, going on where the stream stands."""
    return Schedule(key, size, batch, steps, position)


def epochs(key: int, size: int, batch: int | None, count: int, position: int) -> Schedule:
    """`count` passes over the shard, each freshly shuffled; a batch of None is the whole shard.

    The last batch of a pass is smaller if `batch` does not divide the shard; it is padded with samples of weight 0.
    """
    first = -(-position // size)
    if batch is None or batch >= size:
        padded = bucket(size) if batch is None else min(batch, bucket(size))
        return Schedule(key, size, padded, count, first, per_epoch=1)
    per_epoch = -(-size // batch)
    return Schedule(key, size, batch, count * per_epoch, first, per_epoch=per_epoch)


def bucket(size: int) -> int:
    """The smallest of 1, 1.25, 1.5 and 1.75 times a power of two that is at least `size`.

    Shards of different sizes meet in one batch this way, and a shard's padding depends on itself alone.

    >>> [bucket(m) for m in (1, 5, 9, 100)]
    [1, 5, 10, 112]
    """
    if size <= 4:
        return size
    step = 1 << (size.bit_length() - 3)
    return -(-size // step) * step


def batches(
    schedules: Sequence[Schedule], shards: Sequence[Shard], sizes: Sequence[int]
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Batches of several peers, step by step.

    Args:
        schedules: one a row; all with the same `batch`.
        shards: one a row.
        sizes: for each step, how many leading rows are wanted; a row whose schedule is over gets any samples.

    Yields:
        (inputs [n, B, ...], targets [n, B, ...], weights [n, B]); the weights of a row sum to 1,
        n being the step's size.
    """
    n, batch, steps = len(schedules), schedules[0].batch, len(sizes)
    dtype = shards[0].data.inputs.dtype
    dtype = dtype if dtype.is_floating_point else torch.get_default_dtype()
    device = shards[0].data.inputs.device
    common = all(shard.data is shards[0].data for shard in shards)
    block = max(1, BLOCK // (n * batch))
    for start in range(0, steps, block):
        local, weights = _positions(schedules, start, min(block, steps - start), dtype)
        rows = _to_rows(shards, local).to(device)
        weights = weights.to(device)
        for s in range(rows.shape[1]):
            size = sizes[start + s]
            inputs, targets = _gather(shards, rows[:size, s], common)
            yield inputs, targets, weights[:size, s]


def _positions(schedules: Sequence[Schedule], start: int, steps: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Index within each shard [n, steps, B], and weights alike."""
    n, batch = len(schedules), schedules[0].batch
    numbers = np.array([(s.key, s.size, s.position, s.skip, s.per_epoch or 0) for s in schedules], dtype=np.int64)
    keys, size, first, skip, per_epoch = torch.from_numpy(numbers).view(n, 5, 1, 1).unbind(1)
    step = torch.arange(start, start + steps).view(1, steps, 1) + skip
    slot = torch.arange(batch).view(1, 1, batch)
    streams = per_epoch == 0
    if streams.any():
        p = first + step * batch + slot
        epoch = p // (schedules[0].size if bool((size == size[0]).all()) else size)  # by a number: a fifth of the time
        position = p - epoch * size
        weights = torch.full((), 1.0 / batch, dtype=dtype).expand(n, steps, batch)
    if not streams.all():
        per_epoch = per_epoch.clamp(min=1)
        within = step % per_epoch * batch + slot
        real = within < size
        passes = (
            (first + step // per_epoch).expand_as(within),
            torch.where(real, within, 0),
            real.to(dtype) / real.sum(-1, keepdim=True).clamp_(min=1).to(dtype),
        )
        if not streams.any():
            epoch, position, weights = passes
        else:
            pairs = zip((epoch, position, weights), passes, strict=True)
            epoch, position, weights = (torch.where(streams, a, b) for a, b in pairs)
    shape = (n, steps * batch)
    local = shuffled(keys.reshape(n), epoch.reshape(shape), position.reshape(shape), size.reshape(n))
    return local.view(n, steps, batch), weights


def _to_rows(shards: Sequence[Shard], local: Tensor) -> Tensor:
    """Index within a shard -> row of its data."""
    sizes = torch.tensor([0] + [len(shard) for shard in shards[:-1]])
    offsets = sizes.cumsum(0).view(-1, 1, 1)
    indices = torch.cat([shard.indices for shard in shards])
    return indices.index_select(0, (local + offsets).flatten()).view_as(local)


def _gather(shards: Sequence[Shard], rows: Tensor, common: bool) -> tuple[Tensor, Tensor]:
    """Samples by row of the leading shards' data; `common`: all have the same."""
    data = shards[0].data
    if common:
        flat = rows.reshape(-1)
        inputs = data.inputs.index_select(0, flat).view(*rows.shape, *data.inputs.shape[1:])
        targets = data.targets.index_select(0, flat).view(*rows.shape, *data.targets.shape[1:])
        return inputs, targets
    inputs = torch.stack([shard.data.inputs[own] for shard, own in zip(shards, rows, strict=False)])
    targets = torch.stack([shard.data.targets[own] for shard, own in zip(shards, rows, strict=False)])
    return inputs, targets
