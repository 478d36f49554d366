"""Bytes of all processes of a torch.distributed group, whatever their lengths."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

REFUSED = -1  # in place of a size: this process has nothing that could be sent


def gather(data: bytes | None, device: torch.device, group: Any = None) -> list[bytes]:
    """The bytes of every rank; sizes go first, and what is shorter is filled up to the longest.

    Args:
        data: what this process sends; None if its gradient is not finite.
        device: on which the group communicates.
        group: the processes; None for all.

    Raises:
        ValueError: in every process, if one of them has None.
    """
    n = dist.get_world_size(group)
    own = torch.tensor([REFUSED if data is None else len(data)], device=device)
    sizes = [torch.empty_like(own) for _ in range(n)]
    dist.all_gather(sizes, own, group=group)
    counts = [int(size) for size in sizes]
    refused = [str(rank) for rank, count in enumerate(counts) if count == REFUSED]
    if data is None or refused:
        raise ValueError(f"gradient: rank {', '.join(refused)} has NaN or infinity, which no codec can send")
    padded = torch.zeros(max(counts), dtype=torch.uint8)
    padded[: len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    padded = padded.to(device)
    gathered = [torch.empty_like(padded) for _ in range(n)]
    dist.all_gather(gathered, padded, group=group)
    return [bytes(part[:count].cpu().numpy()) for part, count in zip(gathered, counts, strict=True)]
