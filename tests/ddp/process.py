"""One of several real processes: `python -m tests.ddp.process RANK WORLD FOLDER`; writes what it ends with."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from shoal import ddp
from shoal.tensors import key, normal
from shoal.tensors.layout import flatten_module
from tests.protocols import runs

SIZES = (7, 5)
STEPS = 14
MAKERS: dict[str, Any] = {
    "majority": lambda p: ddp.DistributedLion(p, lr=0.02, weight_decay=0.1),
    "average": lambda p: ddp.DistributedLion(p, lr=0.02, average=True),
    "1-bit adam": lambda p: ddp.OneBitAdam(p, lr=0.03, warmup=5),
    "demo": lambda p: ddp.DeMo(p, lr=0.02, decay=0.8, k=2, chunk=3),
}
SMALL: dict[str, Any] = {
    "majority": lambda p: ddp.DistributedLion(p, zero=-1),
    "1-bit adam": lambda p: ddp.OneBitAdam(p, warmup=1),
    "demo": lambda p: ddp.DeMo(p, k=1, chunk=16),
}


def trajectory(rank: int, make: Any) -> torch.Tensor:
    """The parameters after `STEPS` steps on this process's share of the linear regression."""
    task = runs.regression()
    data, pieces = runs.partition(task, SIZES)
    # Every process starts elsewhere: the first one's start is to count.
    module = task.initial(key(3, "init") if rank == 0 else 99)
    optimizer = make(module.parameters())
    for step in range(STEPS):
        if step == STEPS // 2:  # what is stored and loaded goes on as if nothing had been
            stored = optimizer.state_dict()
            optimizer = make(module.parameters())
            optimizer.load_state_dict(stored)
        w = flatten_module(module)[0]
        g = runs.gradient(w, data, pieces[rank])
        cut = runs.WIDTH * runs.OUTPUTS
        module.weight.grad, module.bias.grad = g[:cut].view(runs.OUTPUTS, runs.WIDTH).clone(), g[cut:].clone()
        optimizer.step()
    return flatten_module(module)[0].detach().clone()


def traffic(rank: int) -> dict[str, torch.Tensor]:
    """Bytes that a process hands over in a step: of DDP's buckets, and of the optimizers, for one other process."""
    inputs = normal(key(rank, "x"), (16, 128))
    found, buckets = {}, []

    def hook(state, bucket):  # type: ignore[no-untyped-def]  # torch reads annotations, and not as text
        buckets.append(bucket.buffer().nbytes)
        work: Any = dist.all_reduce(bucket.buffer(), async_op=True)
        return work.get_future().then(lambda done: done.value()[0])

    module = nn.Linear(128, 64)
    wrapped = DistributedDataParallel(module)
    wrapped.register_comm_hook(None, hook)
    wrapped(inputs).square().mean().backward()
    found["ddp"] = torch.tensor(sum(buckets))
    for name, make in SMALL.items():
        module = nn.Linear(128, 64)
        optimizer = make(module.parameters())
        for _ in range(2):
            before = optimizer.sent
            optimizer.zero_grad()
            module(inputs).square().mean().backward()
            optimizer.step()
        found[name] = torch.tensor(optimizer.sent - before)
    return found


def refusals(rank: int) -> dict[str, torch.Tensor]:
    """Whether a step with NaN in the second process's gradient is refused here, and leaves everything as it was."""
    found = {}
    for name, make in SMALL.items():
        module = nn.Linear(3, 2)
        optimizer = make(module.parameters())
        before = [p.detach().clone() for p in module.parameters()]
        for p in module.parameters():
            p.grad = torch.full_like(p, torch.nan if rank == 1 else 1.0)
        try:
            optimizer.step()
        except ValueError as error:
            same = all(torch.equal(p, old) for p, old in zip(module.parameters(), before, strict=True))
            clean = not any(optimizer.state.values()) and all(group["steps"] == 0 for group in optimizer.param_groups)
            found[name] = torch.tensor("rank 1" in str(error) and same and clean)
        else:
            found[name] = torch.tensor(False)
    return found


def main(rank: int, world: int, folder: Path) -> None:
    """Everything that is tested, in one group of processes."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world)
    result = {f"end of {name}": trajectory(rank, make) for name, make in MAKERS.items()}
    result |= {f"bytes of {name}": count for name, count in traffic(rank).items()}
    result |= {f"refused by {name}": as_it_was for name, as_it_was in refusals(rank).items()}
    save_file(result, str(folder / f"{rank}.safetensors"))
    dist.barrier()  # who goes first would cut the other off
    dist.destroy_process_group()
    os._exit(0)  # all is written; threads of torch that still run may abort an interpreter that ends by itself


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
