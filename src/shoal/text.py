"""Values in messages."""

from typing import Any


def shown(value: Any, most: int = 80) -> str:
    """A value on one line, as Python writes it; of a longer one the beginning and "…".

    Args:
        value: of any kind.
        most: characters at most.

    >>> shown(list(range(100)), 20)
    '[0, 1, 2, 3, 4, 5, …'
    """
    return cut(" ".join(repr(value).split()), most)


def cut(text: str, most: int) -> str:
    """The text, or the beginning of a longer one and "…"; `most` characters at most."""
    return text if len(text) <= most else f"{text[: most - 1]}…"
