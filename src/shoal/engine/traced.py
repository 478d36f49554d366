"""Functions of stacked rows, recorded once for each shape and replayed without the machinery that recorded them.

`torch.func.vmap` and autograd are exact but slow to enter. What they do for given shapes is a fixed list of tensor
operations: a `TorchDispatchMode` sees them as they run the first time. The list, without operations that change
nothing, becomes a plain Python function. Replaying it gives the same bits, since it is the same operations (but for
products that are asked for transposed, `_straight`).
"""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from shoal.tensors.attention import plain_attention

aten = torch.ops.aten
ALIASES = {aten.detach.default, aten.alias.default, aten.lift_fresh.default}
RESHAPES = {aten.expand.default, aten.view.default, aten._unsafe_view.default}
CONVOLUTIONS = {aten.convolution.default, aten.convolution_backward.default}

# On a CPU most functions of one element take one way for as many elements as fill the processor's vectors and another
# one for what is left over, and round differently there: a row's bits would depend on its place in the stack. These
# do not, for float32 and float64. The others are made to go row by row; see `_Recorder._row_by_row`.
_EVEN = (
    "abs add addcdiv addcmul ceil clamp clamp_max clamp_min clone copysign cos div eq erf erfc exp expm1 fill floor "
    "ge gt hardtanh isfinite isinf isnan le lerp log log10 log1p log2 logical_and logical_not logical_or lt "
    "masked_fill maximum minimum mul nan_to_num ne neg positive reciprocal relu round rsqrt rsub sgn sigmoid_backward "
    "sign sin sqrt square sub tan tanh tanh_backward threshold threshold_backward trunc where zero"
)
EVEN = frozenset(_EVEN.split())
UNTAGGED = {"elu_backward", "gelu", "mish_backward", "softplus_backward", "log_sigmoid_backward"}
VECTORS = 128  # bytes that a CPU takes at once: rows of a multiple of it leave nothing over


class Traced:
    """A function of stacked rows, replayed from its recording.

    Args:
        fn: pure function of stacked tensors (dictionaries and lists are allowed): no branches on values, no
            effects, no random numbers but keyed ones.
        in_place: whether `fn` changes its arguments; none of them may be expanded then.
    """

    _lock = threading.Lock()

    def __init__(self, fn: Callable[..., Any], *, in_place: bool = False) -> None:
        self._fn = fn
        self._in_place = in_place
        self._replays: dict[Hashable, Callable[..., Any]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """What another process needs to record it anew."""
        return {**vars(self), "_replays": {}}

    def __call__(self, *stacked: Any) -> Any:
        """Apply to tensors [n, ...], n >= 2."""
        leaves = _leaves(stacked)
        names = tuple(tuple(part) for part in stacked if isinstance(part, dict))  # a full comparison costs 100 us
        key = (names, *((t.shape, t.stride(), t.dtype) for t in leaves))
        replay = self._replays.get(key)
        if replay is None:
            with self._lock:
                replay = self._replays[key] = _record(self._fn, stacked, self._in_place)
        return replay(*leaves)


def _leaves(tree: Any) -> list[Any]:
    """As `pytree.tree_leaves`, but fast for plain containers."""
    result: list[Any] = []
    for part in tree:
        kind = type(part)
        if kind is Tensor:
            result.append(part)
        elif kind is list or kind is tuple:
            result += _leaves(part)
        elif kind is dict:
            result += _leaves(part.values())
        else:
            result += pytree.tree_leaves(part)
    return result


@dataclass
class _Call:
    """One recorded operation; tensors in `args` and `kwargs` stand as `_Slot`."""

    op: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    results: list[int | None]
    is_list: bool


@dataclass(frozen=True)
class _Slot:
    number: int


class _Recorder(TorchDispatchMode):
    """Notes every operation, with tensors named by the order in which they first appear."""

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[_Call] = []
        self.constants: dict[int, Tensor] = {}
        self._versions: dict[int, int] = {}
        self._rows = inputs[0].shape[0] if inputs else 0
        self.tensors: list[Tensor] = []  # kept, so that no id is used twice
        self._numbers: dict[int, int] = {}
        for tensor in inputs:
            self.number(tensor)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Torch's own switch: True would import its compiler, a second of work that nothing here needs."""
        return False

    def number(self, tensor: Tensor) -> int:
        """The tensor's number, a new one at its first appearance."""
        found = self._numbers.get(id(tensor))
        if found is None:
            found = self._numbers[id(tensor)] = len(self.tensors)
            self.tensors.append(tensor)
        return found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and note it."""
        kwargs = kwargs or {}
        if func in CONVOLUTIONS and args[0].device.type == "cpu":
            raise RuntimeError("a convolution rounds differently in stacks of different size")
        place = next((i for i, value in enumerate(args) if self._leaves_over(func, value)), None)
        if place is not None:
            with self:
                return self._row_by_row(func, args, kwargs, place)
        slots, named_slots = pytree.tree_map_only(Tensor, self._operand, (args, kwargs))
        result = func(*args, **kwargs)
        if func is aten._local_scalar_dense.default or func is aten.is_nonzero.default:
            raise RuntimeError("the function looks at a value of its tensors")
        same = self._unchanged(func, args, result)
        if same is not None:
            self._numbers[id(result)] = self.number(same)
            self.tensors.append(result)
            return result
        results = list(result) if isinstance(result, list | tuple) else [result]
        numbers = [self.number(part) if isinstance(part, Tensor) else None for part in results]
        self.calls.append(_Call(func, slots, named_slots, numbers, isinstance(result, list | tuple)))
        return result

    def _leaves_over(self, func: Any, x: Any) -> bool:
        """Whether the operation would round a row of its operand differently in another place of the stack."""
        if not isinstance(x, Tensor):
            return False
        if x.device.type != "cpu" or not x.is_floating_point() or x.ndim == 0 or x.shape[0] != self._rows:
            return False
        name = func.overloadpacket.__name__.removesuffix("_")
        if torch.Tag.pointwise not in func.tags and name not in UNTAGGED:
            return False
        if name in EVEN and x.itemsize >= 4:
            return False
        row = x.numel() // self._rows
        if any(0 < x.stride(0) < s for s, size in zip(x.stride()[1:], x.shape[1:], strict=True) if size > 1):
            raise RuntimeError(f"the rows of the argument of {name} lie interleaved in memory")
        return row > 0 and x.stride(0) == row and row * x.itemsize % VECTORS != 0

    @staticmethod
    def _row_by_row(func: Any, args: Any, kwargs: Any, place: int) -> Tensor:
        """The operation with a gap of one element behind each row, so that each is gone through by itself."""
        x: Tensor = args[place]
        strides = (x.numel() // x.shape[0] + 1, *x.stride()[1:])
        apart = torch.empty_strided(x.shape, strides, dtype=x.dtype, device=x.device).copy_(x)
        result: Tensor = func(*args[:place], apart, *args[place + 1 :], **kwargs)
        return x.copy_(result) if func._schema.is_mutable and place == 0 else result

    def _operand(self, tensor: Tensor) -> _Slot:
        if id(tensor) not in self._numbers:
            self.constants[self.number(tensor)] = tensor
            self._versions[id(tensor)] = tensor._version
        return _Slot(self.number(tensor))

    def check_constants(self) -> None:
        """Refuse a function that changes a tensor it did not get or make: each replay would change it again."""
        if any(tensor._version != self._versions[id(tensor)] for tensor in self.constants.values()):
            raise RuntimeError("the function changes a constant in place")

    @staticmethod
    def _unchanged(func: Any, args: Any, result: Any) -> Tensor | None:
        """The operand that an operation only repeats, if it does."""
        if not args or not isinstance(args[0], Tensor) or not isinstance(result, Tensor):
            return None
        source = args[0]
        if func in ALIASES:
            return source
        if func in RESHAPES and result.shape == source.shape and result.stride() == source.stride():
            return source
        return None


def _record(fn: Callable[..., Any], stacked: tuple[Any, ...], in_place: bool) -> Callable[..., Any]:
    """Run `fn` once and return a function from the leaves of its arguments to its result."""
    inputs = [t.detach() for t in pytree.tree_leaves(stacked)]
    kept = [t.clone() for t in inputs] if in_place else []
    spec = pytree.tree_structure(stacked)
    recorder = _Recorder(inputs)
    with torch.no_grad(), plain_attention(), recorder:  # the fused attention kernels cannot be batched
        result = fn(*pytree.tree_unflatten(inputs, spec))
    outputs, structure = pytree.tree_flatten(() if result is None else result)  # to torch, None is a leaf
    for tensor, value in zip(inputs, kept, strict=in_place):
        tensor.copy_(value)
    recorder.check_constants()
    names = [recorder.number(output) for output in outputs]
    calls = _straight(_alive(recorder.calls, names), names, itertools.count(len(recorder.tensors)))
    made = pytree.tree_unflatten([_Slot(number) for number in names], structure)
    return _compile(calls, len(inputs), made, recorder.constants)


def _alive(calls: list[_Call], wanted: list[int]) -> list[_Call]:
    """The calls whose results are used, or which change one of their operands."""
    needed = set(wanted)
    kept = []
    for call in reversed(calls):
        if call.op._schema.is_mutable or any(number in needed for number in call.results):
            kept.append(call)
            needed.update(slot.number for slot in _slots(call))
    return kept[::-1]


def _straight(calls: list[_Call], outputs: list[int], fresh: Iterator[int]) -> list[_Call]:
    """The same calls, but where (a b)^T is an output, as b^T a^T: what reads it next finds it in order in memory.

    Autograd gives the gradient of a weight as such a transposed product, and an update that walks across its memory
    takes three times as long.
    """
    uses = Counter(slot.number for call in calls for slot in _slots(call)) + Counter(outputs)
    products = {call.results[0]: call for call in calls if call.op is aten.bmm.default}
    turned: dict[int, _Call] = {}
    for call in calls:
        if call.op is aten.transpose.int and call.args[1:] == (1, 2) and call.results[0] in outputs:
            product = products.get(call.args[0].number)
            if product is not None and uses[call.args[0].number] == 1:
                turned[id(product)] = call
    result = []
    for call in calls:
        if id(call) in turned:
            parts = [_Call(aten.transpose.int, (part, 1, 2), {}, [next(fresh)], False) for part in reversed(call.args)]
            factors = tuple(_Slot(part.results[0]) for part in parts if part.results[0] is not None)
            result += [*parts, _Call(call.op, factors, {}, turned[id(call)].results, False)]
        elif not any(call is outer for outer in turned.values()):
            result.append(call)
    return result


def _slots(call: _Call) -> list[_Slot]:
    return [leaf for leaf in pytree.tree_leaves((call.args, call.kwargs)) if isinstance(leaf, _Slot)]


def _compile(calls: list[_Call], inputs: int, result: Any, constants: dict[int, Tensor]) -> Callable[..., Any]:
    """A Python function that makes the calls; each tensor is let go after its last use.

    `result` is what it returns, with slots in the place of tensors.
    """
    outputs = [slot.number for slot in pytree.tree_leaves(result)]
    scope: dict[str, Any] = {f"t{number}": tensor for number, tensor in constants.items()}
    last = {slot.number: i for i, call in enumerate(calls) for slot in _slots(call)}
    lines = []
    for i, call in enumerate(calls):
        scope[f"op{i}"] = getattr(call.op, "_op", call.op)
        values = [_source(value, scope) for value in call.args]
        values += [f"{name}={_source(value, scope)}" for name, value in call.kwargs.items()]
        targets = ", ".join("_" if number is None else f"t{number}" for number in call.results)
        targets = f"[{targets}]" if call.is_list else targets
        lines.append(f"    {targets} = op{i}({', '.join(values)})")
        dead = {s.number for s in _slots(call) if last[s.number] == i} - set(outputs) - constants.keys()
        made = {n for n in call.results if n is not None and n not in last} - set(outputs)
        if dead | made:
            lines.append(f"    del {', '.join(f't{number}' for number in sorted(dead | made))}")
    head = ", ".join(f"t{number}" for number in range(inputs))
    body = "\n".join(lines)
    code = f"def replay({head}):\n{body}\n    return {_built(result, scope)}\n"
    exec(code, scope)
    replay: Callable[..., Any] = scope["replay"]
    return replay


def _built(tree: Any, scope: dict[str, Any]) -> str:
    """Source text that builds a result of tensors."""
    if isinstance(tree, _Slot):
        return f"t{tree.number}"
    if type(tree) is tuple:
        return f"({''.join(f'{_built(part, scope)}, ' for part in tree)})"
    if type(tree) is list:
        return f"[{', '.join(_built(part, scope) for part in tree)}]"
    if type(tree) is dict and all(type(name) is str for name in tree):
        return f"{{{', '.join(f'{name!r}: {_built(part, scope)}' for name, part in tree.items())}}}"
    leaves, structure = pytree.tree_flatten(tree)
    name = f"c{len(scope)}"
    scope[name] = partial(pytree.tree_unflatten, treespec=structure)
    return f"{name}([{', '.join(f't{slot.number}' for slot in leaves)}])"


def _source(value: Any, scope: dict[str, Any]) -> str:
    """An argument as source text; what has no literal becomes a global of the replayed function."""
    if isinstance(value, _Slot):
        return f"t{value.number}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_source(part, scope) for part in value)}]"
    if value is None or isinstance(value, bool | int | str):
        return repr(value)
    name = f"c{len(scope)}"
    scope[name] = value
    return name
