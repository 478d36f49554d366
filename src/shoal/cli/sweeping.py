"""One experiment in many variants: what `--sweep` means."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

Arm = tuple[str | None, dict[str, Any]]
MOST = 1_000


def variants(name: str | None, chosen: dict[str, Any], sweeps: Sequence[str]) -> list[Arm]:
    """All combinations of the values that settings are to have.

    Args:
        name: what the runs are called; their values are added to it.
        chosen: the settings that all have.
        sweeps: "setting=value value ...", values apart by blanks; `none` is a value, too.

    Returns:
        (name, settings) of each run, the last setting changing fastest; the experiment itself without sweeps.

    Raises:
        ValueError: a sweep that is none, an unknown setting, one that is given twice, or too many runs.

    >>> [name for name, _ in variants("g", {}, ["codec=none fp16", "seed=1 2"])]
    ['g-none-1', 'g-none-2', 'g-fp16-1', 'g-fp16-2']
    """
    if not sweeps:
        return [(name, chosen)]
    from shoal.names import suggestion
    from shoal.simulation.settings import Settings

    ways: dict[str, list[str]] = {}
    for sweep in sweeps:
        setting, equals, text = sweep.partition("=")
        setting, values = setting.strip().replace("-", "_"), text.split()
        if not equals or not values:
            raise ValueError(f"sweep: got {sweep!r}; setting=value value ..., as in 'codec=none fp16', is allowed")
        if setting not in Settings.model_fields:
            raise ValueError(f"sweep: {setting!r} is not a setting{suggestion(setting, Settings.model_fields)}")
        if setting in ways or (setting in chosen and setting != "protocol"):
            raise ValueError(f"sweep: {setting} is given twice")
        if len(set(values)) != len(values):
            raise ValueError(f"sweep: {setting} has a value twice: {text.strip()}")
        ways[setting] = values
    combinations = list(itertools.product(*ways.values()))
    if len(combinations) > MOST:
        raise ValueError(f"sweep: got {len(combinations)} runs; at most {MOST} are allowed")
    stem = name or str(chosen.get("protocol", "gossip")).split(":")[0]
    arms: list[Arm] = []
    for combination in combinations:
        label = combination if "protocol" in ways else (stem, *combination)
        settings = {setting: _value(value) for setting, value in zip(ways, combination, strict=True)}
        arms.append(("-".join(label).replace("/", "_")[:100], {**chosen, **settings}))
    return arms


def check(arms: Sequence[Arm]) -> None:
    """Refuse, before the first run, what a later one would be refused for.

    Raises:
        ValueError: as of `Parts`, with the run's name.
    """
    from shoal.engine import ShoalError
    from shoal.simulation.parts import Parts
    from shoal.simulation.settings import Settings

    for name, settings in arms:
        try:
            Parts(Settings.of(**settings), {}, name)
        except (ValueError, ShoalError) as error:
            raise ValueError(f"{name}: {error}") from error


def _value(text: str) -> str | None:
    return None if text.lower() == "none" else text
