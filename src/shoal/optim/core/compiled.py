"""Element-wise chains as machine code: one loop over every parameter, in one pass over memory.

The chain's operations (recording.py) become a small C++ function, compiled once by the machine's own compiler and kept
in `~/.cache/shoal/kernels` (or below $XDG_CACHE_HOME). It knows no shapes and no settings, so that one serves every
model. On other devices torch's own compiler does the like, a kernel a parameter. Without a compiler, and for what is
not element-wise, or neither float32 nor float64, a warning says so once and the step is taken operation by operation.
"""

from __future__ import annotations

import array
import ctypes
import functools
import hashlib
import itertools
import operator
import os
import platform
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch._compile import _disable_dynamo

from shoal.optim.core.plan import Plan
from shoal.optim.core.recording import Untranslatable, source
from shoal.optim.core.stepping import Item

FLAGS = (
    *("-O3", "-march=native", "-std=c++17", "-shared", "-fPIC", "-fno-math-errno", "-fno-trapping-math"),
    "-fno-thread-jumps",  # jumps for NaN would leave less of the loop to vector operations
)
WIDE = ("-mprefer-vector-width=512",)  # where there are such vectors (x86)
VECTOR_MATHS = ("-DVECTOR_MATHS=1", "-lmvec")  # where the C library has such functions (glibc 2.35, x86)
SHARE = 1 << 18  # entries that are worth another thread
TYPES = {torch.float32: "f", torch.float64: "d"}
STACK = 7  # frames between a warning and whoever called `step`, torch's own among them
Step = Callable[..., None]


class Kernel:
    """A compiled chain.

    Attributes:
        keys: its slots.
        dtype: of all its tensors.
        device: kind of device that all its tensors are on.
        here: whether a tensor is on such a device.
    """

    device = "cpu"
    here: Callable[[Tensor], bool] = staticmethod(operator.attrgetter("is_cpu"))

    def __init__(self, plan: Plan, dtype: torch.dtype) -> None:
        text, self._scalars = source(plan, dtype)
        self._step = _load(text)
        self.keys = plan.tensors
        self.dtype = dtype

    def fits(self, item: Item) -> bool:
        """Whether all tensors of an item are what the loop is for; a gradient is laid out anew if it must.

        Raises:
            RuntimeError: they have not one shape, and the loop would leave their memory.
        """
        if not item.g.is_contiguous():
            item.g = item.g.contiguous()
        state, dtype, here, size = item.state, self.dtype, self.here, item.p.numel()
        same = True
        for x in (item.p, item.g, *[state.get(key) for key in self.keys]):
            if x is None or x.dtype is not dtype or not x.is_contiguous() or not here(x):
                return False
            if x.numel() != size:
                same = False
        if not same:
            shapes = ", ".join(str(tuple(x.shape)) for x in (item.p, item.g, *(state[key] for key in self.keys)))
            raise RuntimeError(f"parameter, gradient and state must have one shape; got {shapes}")
        return True

    def __call__(self, items: Sequence[Item]) -> None:
        """Step items that share their scalars."""
        first = items[0]
        numbers = [float(getattr(first.scalars[i], name)) for i, name in self._scalars]
        keys = self.keys
        places: list[int] = []
        for item in items:
            state = item.state
            places += (item.p.data_ptr(), item.g.data_ptr(), *[state[key].data_ptr() for key in keys])
        pointers = array.array("Q", places)
        sizes = array.array("q", [item.p.numel() for item in items])
        c = array.array(TYPES[self.dtype], [*numbers, float(first.negate)])
        total = sum(sizes)
        call = functools.partial(self._step, len(items), *[x.buffer_info()[0] for x in (sizes, pointers, c)])
        if total < 2 * SHARE or (parts := min(torch.get_num_threads(), total // SHARE)) <= 1:
            call(0, total)
            return
        edges = [total * k // parts // 64 * 64 for k in range(parts)] + [total]
        rest = [_threads().submit(call, a, b) for a, b in itertools.pairwise(edges[1:])]
        call(0, edges[1])
        for future in rest:
            future.result()


class DeviceKernel(Kernel):
    """A chain compiled by torch, for other devices.

    Args:
        plan: of any parameter with this chain.
        p: a parameter: the kernel is for its dtype and kind of device.
        backend: as of `torch.compile`.
    """

    def __init__(self, plan: Plan, p: Tensor, backend: str = "inductor") -> None:
        self._plan, self.dtype, self.device = plan, p.dtype, p.device.type
        self.here = lambda x: x.device.type == self.device
        self.keys = plan.tensors
        parts = plan.scalars(2.0, 0.5)
        self._scalars = [(i, name) for i, part in enumerate(parts) for name in vars(part)]
        self._flags = [isinstance(getattr(parts[i], name), bool) for i, name in self._scalars]
        self._compiled = torch.compile(self._one, dynamic=True, backend=backend)

    def __call__(self, items: Sequence[Item]) -> None:
        """Step items that share their scalars."""
        first = items[0]
        values = [float(getattr(first.scalars[i], name)) for i, name in self._scalars]
        numbers = torch.tensor([*values, -1.0 if first.negate else 1.0], dtype=self.dtype, device=first.p.device)
        for item in items:
            self._compiled(item.p.view(-1), item.g.view(-1), [item.state[k].view(-1) for k in self.keys], numbers)

    def _one(self, p: Tensor, g: Tensor, slots: list[Tensor], numbers: Tensor) -> None:
        plan = self._plan
        scalars = [SimpleNamespace() for _ in range(len(plan.chain) + 1)]
        *values, direction = numbers.unbind()
        for (i, name), flag, value in zip(self._scalars, self._flags, values, strict=True):
            setattr(scalars[i], name, value != 0 if flag else value)
        g = g * direction
        states = plan.bind(dict(zip(self.keys, slots, strict=True)))
        plan.begin(p, states, scalars)
        plan.finish(plan.transform(g, p, g, states, scalars), p, g, states, scalars)


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(1, torch.get_num_threads() - 1), "shoal-step")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_threads.cache_clear)  # threads do not survive a fork


class Kernels:
    """The kernels of one optimizer, or why there are none; made as they are needed."""

    def __init__(self) -> None:
        self._made: dict[Any, Kernel | str] = {}  # by structure: a schedule makes new chains, but no new kernels
        self._said: set[str] = set()

    def step(self, items: Sequence[Item]) -> list[Item]:
        """Step what kernels can take, and warn once of what they cannot.

        Returns:
            The rest.
        """
        compiling = torch.compiler.is_dynamo_compiling()
        rest, new = (_untraced if compiling else Kernels._step)(self, items)
        for why in new:
            warnings.warn(f"compile=True: {why}; the step is taken operation by operation", stacklevel=STACK)
        return rest

    def _step(self, items: Sequence[Item]) -> tuple[list[Item], list[str]]:
        """Step what kernels can take.

        Returns:
            The rest, and reasons for it that have not been given before.
        """
        groups: dict[tuple[Kernel, int, bool], list[Item]] = {}
        rest: list[Item] = []
        new: list[str] = []
        for item in items:
            kernel = item.plan.kernel or self._kernel(item)
            if isinstance(kernel, Kernel):
                if kernel.fits(item):
                    key = kernel, id(item.scalars), item.negate
                    if key in groups:
                        groups[key].append(item)
                    else:
                        groups[key] = [item]
                    continue
                kernel = f"a parameter or its state is not contiguous, or not {kernel.dtype} on a {kernel.device}"
            rest.append(item)
            if kernel not in self._said:
                self._said.add(kernel)
                new.append(kernel)
        for (kernel, *_), some in groups.items():
            kernel(some)
        return rest, new

    def _kernel(self, item: Item) -> Kernel | str:
        key = (structure(item.plan), item.p.dtype, item.p.device.type)
        if key not in self._made:
            self._made[key] = make(item.plan, item.p)
        kernel = item.plan.kernel = self._made[key]
        return kernel


_untraced = _disable_dynamo(Kernels._step)  # within a compiled training loop: pointers are not for tracing


def make(plan: Plan, p: Tensor) -> Kernel | str:
    """The kernel of a chain for parameters like `p`, or why there is none."""
    if plan.granularity != "element":
        coarse = next(t for t in plan.chain if t.granularity != "element" or any(s.shape for s in t.slots))
        return f"{type(coarse).__name__} looks at whole tensors"
    if p.dtype not in TYPES:
        return f"parameters are {p.dtype}; float32 and float64 are compiled"
    if p.device.type != "cpu":
        return DeviceKernel(plan, p)
    try:
        return Kernel(plan, p.dtype)
    except (Untranslatable, NoCompiler) as error:
        return str(error)


def structure(plan: Plan) -> tuple[Any, ...]:
    """What the loop of a chain depends on: its transforms with every float left out, and its slots."""
    transforms = tuple((type(t), *map(_shape_of, vars(t).values())) for t in plan.chain)
    return *transforms, *(key for key, *_ in plan.slots)


def _shape_of(value: Any) -> Any:
    return float if isinstance(value, float) else value


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
    depends = [text, *FLAGS, *WIDE, *VECTOR_MATHS, _machine(), str(compiler())]
    made_for = hashlib.sha256("\0".join(depends).encode()).hexdigest()[:32]
    try:
        found = next((file for file in cache().glob(f"{made_for}-*.so") if _intact(file)), None)
        library = found or _compile(text, made_for)
        step: Any = ctypes.CDLL(str(library)).step
    except (OSError, RuntimeError) as error:  # no home, nowhere to write, or nothing there may be loaded
        raise NoCompiler(f"the cache of kernels cannot be used ({error}); $XDG_CACHE_HOME may name another") from None
    pointer = ctypes.c_void_p
    step.argtypes = [ctypes.c_int64, pointer, pointer, pointer, ctypes.c_int64, ctypes.c_int64]
    step.restype = None
    return step  # type: ignore[no-any-return]


def _intact(library: Path) -> bool:
    """Whether a library still is what its name says."""
    return library.stem.endswith("-" + _digest(library))


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:32]


def cache() -> Path:
    """Where kernels are kept."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "shoal" / "kernels"


def _compile(text: str, made_for: str) -> Path:
    """Make a library; it appears whole or not at all.

    Raises:
        NoCompiler: there is none, or it failed.
    """
    found = compiler()
    if found is None:
        raise NoCompiler("there is no C++ compiler (Debian: apt install g++)")
    folder = cache()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as work:
        code, made = Path(work) / "step.cpp", Path(work) / "step.so"
        code.write_text(text)
        for more in (WIDE + VECTOR_MATHS, VECTOR_MATHS, WIDE, ()):
            argv = [found, *FLAGS, "-o", str(made), str(code), *more]
            done = subprocess.run(argv, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                break
        else:
            lines = done.stderr.strip().splitlines() or ["no message"]
            raise NoCompiler(f"{found} failed: {lines[0]}")
        return made.replace(folder / f"{made_for}-{_digest(made)}.so")


@functools.cache
def _machine() -> str:
    """What native code depends on."""
    try:
        words = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags"))
    except (OSError, StopIteration):
        words = platform.processor()
    return f"{platform.machine()} {words}"
