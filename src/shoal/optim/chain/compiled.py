"""Element-wise chains as machine code: one loop over every parameter, in one pass over memory.

The chain's operations (recording.py) become a small C++ function, compiled once by the machine's own compiler and kept
in `~/.cache/shoal/kernels` (or below $XDG_CACHE_HOME). It knows no shapes and no settings, so that one serves every
model. Without a compiler, and for what is not element-wise, not on a CPU, or neither float32 nor float64, a warning
says so once and the step is taken operation by operation.
"""

from __future__ import annotations

import array
import ctypes
import functools
import hashlib
import itertools
import os
import platform
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from shoal.optim.chain.recording import Untranslatable, source
from shoal.optim.chain.rule import Chain, Item, Plan, step_items

FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-std=c++17", "-shared", "-fPIC")
SHARE = 1 << 18  # entries that are worth another thread
TYPES = {torch.float32: "f", torch.float64: "d"}
Step = Callable[..., None]


class Kernel:
    """A compiled chain."""

    def __init__(self, plan: Plan, dtype: torch.dtype) -> None:
        text, self._scalars = source(plan, dtype)
        self._step = _load(text)
        self._keys = [key for key, *_ in plan.slots]
        self._type = TYPES[dtype]

    def __call__(self, items: Sequence[Item]) -> None:
        """Step items that share their scalars."""
        first = items[0]
        numbers = [float(getattr(first.scalars[i], name)) for i, name in self._scalars]
        pointers = array.array("Q")
        for item in items:
            pointers.extend([item.p.data_ptr(), item.g.data_ptr(), *(item.state[key].data_ptr() for key in self._keys)])
        sizes = array.array("q", [item.p.numel() for item in items])
        c = array.array(self._type, [*numbers, float(first.negate)])
        total = sum(sizes)
        call = functools.partial(self._step, len(items), *(x.buffer_info()[0] for x in (sizes, pointers, c)))
        parts = max(1, min(torch.get_num_threads(), total // SHARE))
        if parts == 1:
            call(0, total)
            return
        edges = [total * k // parts // 64 * 64 for k in range(parts)] + [total]
        rest = [_threads().submit(call, a, b) for a, b in itertools.pairwise(edges[1:])]
        call(0, edges[1])
        for future in rest:
            future.result()


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(1, torch.get_num_threads() - 1), "shoal-step")


def step_compiled(items: Sequence[Item], kernels: dict[Any, Kernel | None]) -> None:
    """One step: by kernels what they can take, the rest operation by operation.

    Args:
        items: parameters of the step.
        kernels: those made so far, by chain and dtype; added to.
    """
    groups: dict[tuple[int, int, bool], tuple[Kernel, list[Item]]] = {}
    rest = []
    for item in items:
        kernel = _kernel(item, kernels)
        if kernel is None:
            rest.append(item)
        else:
            groups.setdefault((id(kernel), id(item.scalars), item.negate), (kernel, []))[1].append(item)
    for kernel, some in groups.values():
        kernel(some)
    if rest:
        step_items(rest)


def _kernel(item: Item, kernels: dict[Any, Kernel | None]) -> Kernel | None:
    dtype = item.p.dtype
    key: tuple[Chain, torch.dtype] = (item.plan.chain, dtype)
    if key not in kernels:
        kernels[key] = _make(item, dtype)
    kernel = kernels[key]
    if kernel is None:
        return None
    tensors = (item.p, item.g, *(item.state[name] for name, *_ in item.plan.slots))
    if all(x.is_contiguous() and x.dtype == dtype and x.device.type == "cpu" for x in tensors):
        return kernel
    return None


def _make(item: Item, dtype: torch.dtype) -> Kernel | None:
    if item.plan.granularity != "element":
        coarse = next(t for t in item.plan.chain if t.granularity != "element" or any(s.shape for s in t.slots))
        why = f"{type(coarse).__name__} looks at whole tensors"
    elif dtype not in TYPES:
        why = f"parameters are {dtype}; float32 and float64 are compiled"
    elif item.p.device.type != "cpu":
        why = f"parameters are on {item.p.device}; compiled steps are for CPUs"
    else:
        try:
            return Kernel(item.plan, dtype)
        except (Untranslatable, NoCompiler) as error:
            why = str(error)
    warnings.warn(f"compile=True: {why}; the step is taken operation by operation", stacklevel=5)
    return None


class NoCompiler(Exception):
    """There is no C++ compiler, or it failed."""


def compiler() -> str | None:
    """The C++ compiler: $CXX, else the first of g++, clang++ and c++ on the path; None without one."""
    for name in (os.environ.get("CXX"), "g++", "clang++", "c++"):
        if name and (found := shutil.which(name)):
            return found
    return None


@functools.cache
def _load(text: str) -> Step:
    """The compiled function of a source text, from the cache if it is there."""
    made_for = hashlib.sha256("\0".join([text, *FLAGS, _machine()]).encode()).hexdigest()[:32]
    library = cache() / f"{made_for}.so"
    if not library.exists():
        _compile(text, library)
    step: Any = ctypes.CDLL(str(library)).step
    pointer = ctypes.c_void_p
    step.argtypes = [ctypes.c_int64, pointer, pointer, pointer, ctypes.c_int64, ctypes.c_int64]
    step.restype = None
    return step  # type: ignore[no-any-return]


def cache() -> Path:
    """Where kernels are kept."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "shoal" / "kernels"


def _compile(text: str, library: Path) -> None:
    found = compiler()
    if found is None:
        raise NoCompiler("there is no C++ compiler (Debian: apt install g++)")
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        code, made = Path(folder) / "step.cpp", Path(folder) / "step.so"
        code.write_text(text)
        done = subprocess.run([found, *FLAGS, "-o", str(made), str(code)], capture_output=True, text=True, check=False)
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ["no message"]
            raise NoCompiler(f"{found} failed: {lines[0]}")
        made.replace(library)


@functools.cache
def _machine() -> str:
    """What native code depends on."""
    try:
        words = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags"))
    except (OSError, StopIteration):
        words = platform.processor()
    return f"{platform.machine()} {words} {compiler()}"
