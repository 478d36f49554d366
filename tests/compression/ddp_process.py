"""One process of `test_ddp.py`: trains a small network with DistributedDataParallel and writes down what happened."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from shoal.compression import Codec, ErrorFeedback, Identity, Int8, PowerSGD, Sign
from shoal.compression.ddp import ddp_hook
from shoal.tensors import key, normal

STEPS = 12
TCP_BYTES_ACKED = slice(120, 128)  # of struct tcp_info, since Linux 4.1


def network() -> nn.Module:
    model = nn.Sequential(nn.Linear(40, 200), nn.Tanh(), nn.Linear(200, 100), nn.Tanh(), nn.Linear(100, 1))
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            p.copy_(normal(key(1, i), tuple(p.shape)) * (0.15 if p.ndim > 1 else 0.0))
    return model


def batch(rank: int, step: int) -> tuple[Tensor, Tensor]:
    x = normal(key(2, rank, step), (32, 40))
    return x, (x[:, :1] - 0.5 * x[:, 1:2]).tanh()


def sent_by_tcp() -> int:
    """Bytes that this process has sent by all its connections, as the kernel counts them."""
    total = 0
    for fd in os.listdir("/proc/self/fd"):
        try:
            if not os.readlink(f"/proc/self/fd/{fd}").startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(fd))) as s:
                info = s.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
                total += int.from_bytes(info[TCP_BYTES_ACKED], sys.byteorder)
        except OSError:  # gone, or not TCP
            continue
    return total


def train(rank: int, codec: Codec | None, change: Callable[[int, nn.Module], None] | None = None) -> dict[str, Any]:
    model = network()
    # Small buckets: there are several, and they are formed anew after the first step.
    ddp = DistributedDataParallel(model, bucket_cap_mb=0.05)
    state = None
    if codec is not None:
        state, hook = ddp_hook(codec, seed=3)
        ddp.register_comm_hook(state, hook)
    optimizer = torch.optim.SGD(ddp.parameters(), lr=0.1)
    dist.barrier()  # the model that DDP has sent around has arrived, and does not count
    losses, before = [], sent_by_tcp()
    for step in range(STEPS):
        x, y = batch(rank, step)
        loss = nn.functional.mse_loss(ddp(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    dist.barrier()
    found: dict[str, Any] = {"losses": losses, "wire": sent_by_tcp() - before}
    found["model"] = [p.detach().flatten().tolist() for p in model.parameters()]
    if state is not None:
        found |= {"sent": state.sent, "plain": state.plain, "calls": state.calls, "buckets": len(state.memories)}
        found["covered"] = sum(layout.size for layout, _ in state.memories.values())
    return found


def refusal(rank: int) -> str:
    """What backward says in every process when the gradient of one is NaN."""
    ddp = DistributedDataParallel(network())
    ddp.register_comm_hook(*ddp_hook(Int8()))
    x, y = batch(rank, 0)
    try:
        (nn.functional.mse_loss(ddp(x), y) * (float("nan") if rank == 1 else 1.0)).backward()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def main(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    codecs: dict[str, Codec | None] = {
        "plain": None,
        "identity": Identity(),
        "ef+sign": ErrorFeedback(Sign()),
        "int8": Int8(),
        "ef+powersgd": ErrorFeedback(PowerSGD(2)),
    }
    found: dict[str, Any] = {name: train(rank, codec) for name, codec in codecs.items()}
    found["refusal"] = refusal(rank)
    with open(f"{folder}/{rank}.json", "w", encoding="utf-8") as file:
        json.dump(found, file)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
