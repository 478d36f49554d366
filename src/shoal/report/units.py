"""Numbers as people read them: 45.2 MB, 3.5 min, three significant digits."""

import math
from typing import NamedTuple

MISSING = "–"


class Unit(NamedTuple):
    """A unit's short name and its size in base units (bytes or seconds)."""

    name: str
    size: float


_BYTES = (Unit("B", 1), Unit("kB", 1e3), Unit("MB", 1e6), Unit("GB", 1e9), Unit("TB", 1e12), Unit("PB", 1e15))
_TIME = (Unit("ms", 1e-3), Unit("s", 1), Unit("min", 60), Unit("h", 3600), Unit("d", 86400))


def byte_unit(largest: float) -> Unit:
    """The decimal unit in which `largest` bytes is a number from 1 to 999."""
    # 999.5 kB and more rounds to "1000 kB" at three digits, so the next unit starts a little early.
    return next((unit for unit in reversed(_BYTES) if largest >= 0.9995 * unit.size), _BYTES[0])


def time_unit(largest: float) -> Unit:
    """The unit for `largest` seconds; minutes, hours and days start at three ("170 s", then "3 min")."""
    for unit in reversed(_TIME):
        if largest >= unit.size * (3 if unit.size > 1 else 0.9995):
            return unit
    return _TIME[1] if largest == 0 else _TIME[0]


def digits(value: float | None) -> str:
    """`value` to three significant digits, whole from 1000 on; a dash for None, NaN and infinity."""
    if value is None or not math.isfinite(value):
        return MISSING
    if abs(value) >= 999.5:
        return f"{value:,.0f}" if abs(value) < 1e9 else f"{value:.3g}"
    return f"{value + 0.0:.3g}"  # no -0


def human_bytes(count: float | None) -> str:
    """`count` bytes in decimal units: 999 B, 1.23 kB, 45 MB."""
    if count is None or not math.isfinite(count):
        return MISSING
    unit = byte_unit(count)
    return f"{digits(count / unit.size)} {unit.name}"


def human_time(seconds: float | None) -> str:
    """`seconds` in ms, s, min, h or d."""
    if seconds is None or not math.isfinite(seconds):
        return MISSING
    unit = time_unit(seconds)
    return f"{digits(seconds / unit.size)} {unit.name}"
