"""Encode and decode, in turn: `python -m benchmarks.ours.compression <repetitions> [hivemind]`.

Prints JSON on its last line: CPU seconds of one thread, all arms in turn within a repetition.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.algorithms.ddp_comm_hooks import powerSGD_hook

from benchmarks.ours.optimizers import transformer
from benchmarks.rivals.demo_reference import Reference
from shoal.codecs import CODECS
from shoal.compression import DCT, RQM, Codec, ErrorFeedback, PowerSGD
from shoal.compression.codec import stack_memory
from shoal.compression.dct import inverse, transform
from shoal.tensors import Layout, derive, key, normal, uniform
from shoal.tensors.payload import encoded_size

ROWS = 100
SMALL = {"0.weight": (64, 784), "0.bias": (64,), "1.weight": (10, 64), "1.bias": (10,)}
SETTINGS: dict[str, Codec] = {"rqm": RQM(clip=5.0)}  # for normal entries, where the default is for gradients
Once = Callable[[], dict[str, float]]


def seconds(function: Callable[[], object]) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def codec_arm(codec: Codec, x: Tensor, layout: Layout, rows: Tensor, small: Layout) -> Once:
    memory, keys = codec.start(layout), derive(key(2), torch.arange(len(rows)))
    one = codec.start(small)
    stacked = stack_memory([one] * len(rows))
    payload, _ = codec.encode(x, memory, 1, layout)

    def once() -> dict[str, float]:
        return {
            "draws": seconds(lambda: drawn(codec, layout.size)),
            "encode": seconds(lambda: codec.encode(x, memory, 1, layout)),
            "decode": seconds(lambda: codec.decode(payload, layout)),
            "stack draws": seconds(lambda: drawn(codec, small.size, keys)),
            "stack": seconds(lambda: codec.encode_rows(rows, stacked, keys, small)),
            "calls": seconds(lambda: [codec.encode(row, one, i, small) for i, row in enumerate(rows)]),
        }

    return once


def drawn(codec: Codec, d: int, keys: int | Tensor = 1) -> None:
    """What a codec draws for rounding: a number an entry; RQM three, of 53 bits."""
    if isinstance(codec, RQM):
        for purpose in ("below", "above", "rounding"):
            uniform(keys, d, purpose=purpose, dtype=torch.float64)
    elif codec.draws:
        uniform(keys, d)


def transform_arm(codec: DCT, x: Tensor, layout: Layout) -> Once:
    """DeMo's transform and back, beside the bare products of its matrices, [d / w, w] by [w, w] and so for h."""
    grids = [codec.grid(layer) for layer in layout]
    axes = [(layer, n) for layer, g in zip(layout, grids, strict=True) for n in ((g.w, g.h) if g.h > 1 else (g.w,))]
    bases = {n: torch.randn(n, n) for _, n in axes}
    out = torch.empty_like(x)

    def products() -> None:
        for layer, n in axes:
            torch.mm(x[layer.slice].view(-1, n), bases[n], out=out[layer.slice].view(-1, n))

    def forward() -> list[Tensor]:
        return [transform(x[layer.slice], grid) for layer, grid in zip(layout, grids, strict=True)]

    def back() -> None:
        for layer, c, grid in zip(layout, coefficients, grids, strict=True):
            inverse(c, grid, out[layer.slice])

    coefficients = forward()
    return lambda: {"products": seconds(products), "encode": seconds(forward), "decode": seconds(back)}


def rival_arm(rival: Any) -> Once:
    """Of something with `encode()` and `decode(message)`."""
    message = rival.encode()
    return lambda: {"encode": seconds(rival.encode), "decode": seconds(lambda: rival.decode(message))}


def whole_arm(codec: Codec, x: Tensor, layout: Layout) -> Once:
    """What a sender with error feedback does in all, as torch's hook does: encode, decode, keep the error."""
    memory = codec.start(layout)
    return lambda: {"encode": seconds(lambda: codec.encode(x, memory, 1, layout))}


def torch_hook(x: Tensor, layout: Layout, rank: int) -> Once:
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


def rivals_of(x: Tensor, named: list[str]) -> dict[str, Any]:
    """DeMo's own code restated, and hivemind's codecs if asked for."""
    found: dict[str, Any] = {"DeMo's reference": Reference(x, transformer())}
    if "hivemind" in named:
        from benchmarks.rivals.hivemind_codecs import arms

        found |= arms(x)
    return found


def main(repetitions: int, named: list[str]) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    layout = Layout.from_shapes({str(i): shape for i, shape in enumerate(transformer())})
    small = Layout.from_shapes(SMALL)
    x, rows = normal(key(0), layout.size), normal(derive(key(1), torch.arange(ROWS)), small.size)
    codecs = {name: entry.load()() for name, entry in CODECS.items()} | SETTINGS
    arms = {name: codec_arm(codec, x, layout, rows, small) for name, codec in codecs.items()}
    sizes = {name: encoded_size(codec.encode(x, codec.start(layout), 1, layout)[0]) for name, codec in codecs.items()}
    arms["dct, the transform alone"] = transform_arm(DCT(), x, layout)
    arms["ef+powersgd"] = whole_arm(ErrorFeedback(PowerSGD(2)), x, layout)
    sizes["ef+powersgd"] = sizes["torch PowerSGD hook"] = sizes["powersgd"]
    for name, rival in rivals_of(x, named).items():
        arms[name], sizes[name] = rival_arm(rival), rival.size(rival.encode())
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=0, world_size=1)
        arms["torch PowerSGD hook"] = torch_hook(x, layout, 2)
        found: dict[str, Any] = {
            name: {"bytes": 4 * layout.size, "ratio": encoded_size(x) / sizes[name] if name in sizes else None}
            for name in arms
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
    main(int(sys.argv[1]), sys.argv[2:])
