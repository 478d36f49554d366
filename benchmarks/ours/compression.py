"""Encode and decode, in turn: `python -m benchmarks.ours.compression <repetitions>` prints JSON on its last line.

CPU seconds of one thread, all arms in turn within a repetition.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.algorithms.ddp_comm_hooks import powerSGD_hook

from benchmarks.ours.optimizers import transformer
from shoal.codecs import CODECS
from shoal.compression import Codec, ErrorFeedback, PowerSGD
from shoal.compression.codec import stack_memory
from shoal.tensors import Layout, derive, key, normal, uniform
from shoal.tensors.payload import encoded_size

ROWS = 100
SMALL = {"0.weight": (64, 784), "0.bias": (64,), "1.weight": (10, 64), "1.bias": (10,)}


def seconds(function: Callable[[], object]) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def codec_arm(codec: Codec, x: Tensor, layout: Layout, rows: Tensor, small: Layout) -> Callable[[], dict[str, float]]:
    memory, keys = codec.start(layout), derive(key(2), torch.arange(len(rows)))
    one = codec.start(small)
    stacked = stack_memory([one] * len(rows))
    payload, _ = codec.encode(x, memory, 1, layout)

    def once() -> dict[str, float]:
        return {
            "draws": seconds(lambda: uniform(1, layout.size)),
            "encode": seconds(lambda: codec.encode(x, memory, 1, layout)),
            "decode": seconds(lambda: codec.decode(payload, layout)),
            "stack": seconds(lambda: codec.encode_rows(rows, stacked, keys, small)),
            "calls": seconds(lambda: [codec.encode(row, one, i, small) for i, row in enumerate(rows)]),
        }

    return once


def whole_arm(codec: Codec, x: Tensor, layout: Layout) -> Callable[[], dict[str, float]]:
    """What a sender with error feedback does in all, as torch's hook does: encode, decode, keep the error."""
    memory = codec.start(layout)
    return lambda: {"encode": seconds(lambda: codec.encode(x, memory, 1, layout))}


def torch_hook(x: Tensor, layout: Layout, rank: int) -> Callable[[], dict[str, float]]:
    """torch's PowerSGD hook with error feedback and warm start on one bucket, in a process group of one."""
    params = [p.clone() for p in layout.unflatten(x).values()]

    class Bucket:
        """As `dist.GradBucket`, which Python cannot make."""

        def __init__(self) -> None:
            self.flat = x.clone()

        def buffer(self) -> Tensor:
            return self.flat

        def gradients(self) -> list[Tensor]:
            return list(layout.unflatten(self.flat).values())

        def parameters(self) -> list[Tensor]:
            return params

        def index(self) -> int:
            return 0

        def is_last(self) -> bool:
            return True

    state = powerSGD_hook.PowerSGDState(None, matrix_approximation_rank=rank, start_powerSGD_iter=2)
    state.iter = 10  # past the first steps, which are sent whole

    def once() -> dict[str, float]:
        bucket: Any = Bucket()
        return {"encode": seconds(lambda: powerSGD_hook.powerSGD_hook(state, bucket).wait())}

    return once


def main(repetitions: int) -> None:
    torch.set_num_threads(1)
    layout = Layout.from_shapes({str(i): shape for i, shape in enumerate(transformer())})
    small = Layout.from_shapes(SMALL)
    x, rows = normal(key(0), layout.size), normal(derive(key(1), torch.arange(ROWS)), small.size)
    codecs: dict[str, Codec] = {name: entry.load()() for name, entry in CODECS.items()}
    arms = {name: codec_arm(codec, x, layout, rows, small) for name, codec in codecs.items()}
    ratios = {n: encoded_size(x) / encoded_size(c.encode(x, c.start(layout), 1, layout)[0]) for n, c in codecs.items()}
    powersgd = ErrorFeedback(PowerSGD(2))
    arms["ef+powersgd"] = whole_arm(powersgd, x, layout)
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=0, world_size=1)
        arms["torch PowerSGD hook"] = torch_hook(x, layout, 2)
        found: dict[str, Any] = {
            name: {"bytes": 4 * layout.size, "ratio": ratios.get(name, ratios["powersgd"])} for name in arms
        }
        for repetition in range(repetitions + 1):  # the first one is not counted
            for name, once in arms.items():
                for what, spent in once().items():
                    found[name].setdefault(what, []).extend([spent] if repetition else [])
        arms.clear()
        del once  # torch's state holds on to the group
        dist.destroy_process_group()
    print(json.dumps({"arms": found, "pid": os.getpid()}))


if __name__ == "__main__":
    main(int(sys.argv[1]))
