"""An element-wise chain as C++: its tensor operations are watched once, and written down as one loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from shoal.optim.core.plan import Plan
from shoal.optim.core.transform import Scalars


class Untranslatable(Exception):
    """The chain uses an operation that has no place in the loop."""


def _sum(a: str, b: str, sign: str, alpha: Any = 1) -> str:
    return f"({a} {sign} {b})" if alpha == 1 else f"({a} {sign} {alpha} * {b})"


def _scaled(b: str, c: str, operator: str, value: Any = 1) -> str:
    return f"({b} {operator} {c})" if value == 1 else f"({value} * {b} {operator} {c})"


def _clamp(x: str, low: Any = None, high: Any = None) -> str:
    x = x if low is None else f"larger({x}, {low})"
    return x if high is None else f"smaller({x}, {high})"


EXPRESSIONS: dict[str, Callable[..., str]] = {
    "abs": lambda x: f"std::fabs({x})",
    "add": lambda a, b, alpha=1: _sum(a, b, "+", alpha),
    "addcdiv": lambda a, b, c, value=1: f"({a} + {_scaled(b, c, '/', value)})",
    "addcmul": lambda a, b, c, value=1: f"({a} + {_scaled(b, c, '*', value)})",
    "_to_copy": lambda x: x,
    "atan": lambda x: f"arctan({x})",
    "atan2": lambda a, b: f"std::atan2(T({a}), T({b}))",
    "bitwise_and": lambda a, b: f"({a} && {b})",
    "bitwise_not": lambda a: f"(!{a})",
    "bitwise_or": lambda a, b: f"({a} || {b})",
    "ceil": lambda x: f"std::ceil({x})",
    "clamp": _clamp,
    "clamp_max": lambda x, high: _clamp(x, None, high),
    "clamp_min": lambda x, low: _clamp(x, low),
    "clone": lambda x: x,
    "copy": lambda a, b: b,
    "copysign": lambda a, b: f"std::copysign(T({a}), T({b}))",
    "cos": lambda x: f"std::cos({x})",
    "div": lambda a, b: f"({a} / {b})",
    "eq": lambda a, b: f"({a} == {b})",
    "exp": lambda x: f"std::exp({x})",
    "expm1": lambda x: f"std::expm1({x})",
    "fill": lambda a, b: b,
    "floor": lambda x: f"std::floor({x})",
    "full_like": lambda a, b: b,
    "ge": lambda a, b: f"({a} >= {b})",
    "gt": lambda a, b: f"({a} > {b})",
    "le": lambda a, b: f"({a} <= {b})",
    "lerp": lambda a, b, w: f"lerp({a}, {b}, {w})",
    "log": lambda x: f"std::log({x})",
    "log1p": lambda x: f"std::log1p({x})",
    "logical_and": lambda a, b: f"T({a} && {b})",
    "logical_not": lambda a: f"T(!{a})",
    "logical_or": lambda a, b: f"T({a} || {b})",
    "lt": lambda a, b: f"({a} < {b})",
    "masked_fill": lambda a, c, b: f"({c} ? T({b}) : {a})",
    "maximum": lambda a, b: f"larger({a}, {b})",
    "minimum": lambda a, b: f"smaller({a}, {b})",
    "mul": lambda a, b: f"({a} * {b})",
    "ne": lambda a, b: f"({a} != {b})",
    "neg": lambda x: f"(-{x})",
    "ones_like": lambda x: "T(1)",
    "pow": lambda a, b: f"std::pow(T({a}), T({b}))",
    "reciprocal": lambda x: f"(T(1) / {x})",
    "relu": lambda x: f"larger({x}, T(0))",
    "round": lambda x: f"std::nearbyint({x})",
    "rsqrt": lambda x: f"(T(1) / std::sqrt({x}))",
    "rsub": lambda a, b, alpha=1: _sum(b, a, "-", alpha),
    "sgn": lambda x: f"sign({x})",
    "sigmoid": lambda x: f"(T(1) / (T(1) + std::exp(-{x})))",
    "sign": lambda x: f"sign({x})",
    "sin": lambda x: f"std::sin({x})",
    "sqrt": lambda x: f"std::sqrt({x})",
    "square": lambda x: f"({x} * {x})",
    "sub": lambda a, b, alpha=1: _sum(a, b, "-", alpha),
    "tanh": lambda x: f"std::tanh({x})",
    "where": lambda c, a, b: f"({c} ? {a} : {b})",
    "zeros_like": lambda x: "T(0)",
}
ALIASES = {"alias", "detach", "lift_fresh"}
CONSTANTS = {"full", "ones", "scalar_tensor", "zeros"}
IGNORED = {"dtype", "layout", "device", "pin_memory", "memory_format", "non_blocking"}

# Bounds are written so that the compiler can make them vector operations; NaN comes through. The functions declared
# here have vector forms in the C library, within 4 units in the last place. The arctangent of float32 is within 2: a
# polynomial on [0, 1], fitted so that its largest relative error is least (3e-9), and of 1 / x beyond.
HEADER = """\
#if VECTOR_MATHS
#define VECTOR extern "C" __attribute__((simd("notinbranch")))
VECTOR float expf(float) noexcept;
VECTOR double exp(double) noexcept;
VECTOR float logf(float) noexcept;
VECTOR double log(double) noexcept;
VECTOR float powf(float, float) noexcept;
VECTOR double pow(double, double) noexcept;
VECTOR float tanhf(float) noexcept;
VECTOR double tanh(double) noexcept;
VECTOR double atan(double) noexcept;
VECTOR float atan2f(float, float) noexcept;
VECTOR double atan2(double, double) noexcept;
#endif
#include <cmath>
#include <cstdint>
typedef {T} T;
static inline T larger(T a, T b) {{ const T m = b > a ? b : a; return b != b ? b : m; }}
static inline T smaller(T a, T b) {{ const T m = b < a ? b : a; return b != b ? b : m; }}
static inline T sign(T x) {{ return T(x > T(0)) - T(x < T(0)); }}
static inline double arctan(double x) {{ return std::atan(x); }}
static inline float arctan(float x) {{
    const float size = std::fabs(x);
    const bool far = size > 1.0f;
    const float z = (far ? 1.0f : size) / (far ? size : 1.0f), w = z * z;
    float q = -0.0017936177f;
    q = q * w + 0.010914588f;
    q = q * w - 0.031177815f;
    q = q * w + 0.057957564f;
    q = q * w - 0.084034488f;
    q = q * w + 0.10952185f;
    q = q * w - 0.14264241f;
    q = q * w + 0.19998549f;
    q = q * w - 0.33333299f;
    const float near = z + z * w * q;
    return std::copysign(far ? 1.5707964f - (near + 4.3711388e-8f) : near, x);
}}
static inline T lerp(T a, T b, T w) {{ return w < T(0.5) ? a + w * (b - a) : b - (b - a) * (T(1) - w); }}
"""


def source(plan: Plan, dtype: torch.dtype) -> tuple[str, list[tuple[int, str]]]:
    """The chain's step as C++, and which scalars it takes: (transform, name) in order.

    Raises:
        Untranslatable: there is an operation that the loop cannot do.
    """
    for _, slot, _ in plan.slots:
        if (slot.dtype or dtype) != dtype:
            raise Untranslatable(f"slot {slot.name} is kept as {slot.dtype}")
    p, g = torch.tensor([0.5, -1.5], dtype=dtype), torch.tensor([1.0, 2.0], dtype=dtype)
    state = {key: torch.full((2,), 0.5, dtype=dtype) for key in plan.tensors}
    slots = {key: f"s_{key}" for key in state}  # no name of the loop's own starts like this
    names: dict[int, Any] = {id(p): "p", id(g): "g", **{id(s): slots[key] for key, s in state.items()}}
    order: list[tuple[int, str]] = []
    scalars: list[Scalars] = []
    kept: list[Tensor] = [p, g, *state.values()]
    for i, part in enumerate(plan.scalars(2.0, 0.5)):
        numbers = {}
        for name, value in vars(part).items():
            numbers[name] = torch.tensor(value, dtype=torch.bool if isinstance(value, bool) else dtype)
            names[id(numbers[name])] = f"c{len(order)}"
            order.append((i, name))
            kept.append(numbers[name])
        scalars.append(SimpleNamespace(**numbers))
    writer = _Writer(names, kept, dtype)
    with torch.no_grad(), writer:
        states = plan.bind(state)
        plan.begin(p, states, scalars)
        plan.finish(plan.transform(g, p, g, states, scalars), p, g, states, scalars)
    used = [k for k in range(len(order)) if any(f"c{k}" in words for words in writer.words)]
    return _loop(writer, list(slots.values()), used, dtype), [order[k] for k in used]


class _Writer(TorchDispatchMode):
    """Writes each operation down as an assignment."""

    def __init__(self, names: dict[int, Any], kept: list[Tensor], dtype: torch.dtype) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.ahead: list[str] = []
        self.lines: list[str] = []
        self.count = 0
        self.words: list[set[str]] = []
        self.changed: set[str] = set()
        self._dtype = dtype
        self._names = names
        self._kept = kept  # so that no id is used twice

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """True would import torch's compiler."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and write it down."""
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        result = func(*args, **kwargs)
        constant = name in CONSTANTS and result.numel() == 1
        if name in ALIASES or constant:
            self._names[id(result)] = _literal(result.item()) if constant else self._operand(args[0])
            self._kept.append(result)
            return result
        written = args[0] if name.endswith("_") else kwargs.get("out")
        form = EXPRESSIONS.get(name.rstrip("_"))
        if form is None or not isinstance(result, Tensor):
            raise Untranslatable(f"{name} is not among the operations of compiled rules")
        if result.dtype not in (self._dtype, torch.bool):
            raise Untranslatable(f"{name} gives {result.dtype}")
        operands = [self._operand(a) for a in args]
        named = {key: self._operand(value) for key, value in kwargs.items() if key not in {"out", *IGNORED}}
        named = {{"min": "low", "max": "high"}.get(key, key): value for key, value in named.items()}
        try:
            expression = form(*operands, **named)
        except TypeError:
            raise Untranslatable(f"{name} with {', '.join(kwargs)} is not an operation of compiled rules") from None
        target = f"v{self.count}" if written is None else self._operand(written)
        if written is not None:
            self.changed.add(target)
        else:
            self._names[id(result)] = target
            self._kept.append(result)
        kind = "" if written is not None else "bool " if result.dtype == torch.bool else "T "
        self.count += 1
        lines = self.lines if result.dim() else self.ahead  # of numbers alone: once, and not for each entry
        lines.append(f"{kind}{target} = {expression};")
        self.words.append({word for word in [*operands, *named.values()] if isinstance(word, str)})
        return result

    def _operand(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            found = self._names.get(id(value))
            if found is None:
                if value.numel() != 1:
                    raise Untranslatable("a tensor from outside the chain")
                return _literal(value.item())
            return found
        if value is None or isinstance(value, torch.dtype):
            return None
        if not isinstance(value, int | float):
            raise Untranslatable(f"{value!r} is no number")
        return _literal(value)


def _literal(value: float) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    if value == 1:
        return 1
    if math.isnan(value):
        return "T(NAN)"
    if math.isinf(value):
        return "T(INFINITY)" if value > 0 else "T(-INFINITY)"
    return f"T({value!r})"


def _loop(writer: _Writer, slots: Sequence[str], scalars: Sequence[int], dtype: torch.dtype) -> str:
    tensors = ["p", "g", *slots]
    reads = "\n".join(f"        T {name} = at_{name}[i];" for name in tensors)
    ahead = "\n".join(f"    {line}" for line in writer.ahead)
    body = "\n".join(f"        {line}" for line in writer.lines)
    writes = "\n".join(f"        at_{name}[i] = {name};" for name in tensors if name in writer.changed)
    pointers = "\n".join(f"    T* __restrict at_{name} = tensors[{i}];" for i, name in enumerate(tensors))
    numbers = "\n".join(f"    const T c{k} = c[{i}];" for i, k in enumerate(scalars))
    return f"""{HEADER.format(T="float" if dtype == torch.float32 else "double")}
static void some(T* const* tensors, const T* c, int64_t start, int64_t stop) {{
{pointers}
{numbers}
{ahead}
    const bool up = c[{len(scalars)}] != T(0);
#pragma GCC ivdep
    for (int64_t i = start; i < stop; ++i) {{
{reads}
        g = up ? -g : g;
{body}
{writes}
    }}
}}

extern "C" void step(int64_t count, const int64_t* sizes, T* const* tensors, const T* c, int64_t start, int64_t stop) {{
    for (int64_t k = 0, at = 0; k < count && at < stop; at += sizes[k++]) {{
        const int64_t a = start > at ? start - at : 0, b = stop < at + sizes[k] ? stop - at : sizes[k];
        if (a < b) some(tensors + k * {len(tensors)}, c, a, b);
    }}
}}
"""
