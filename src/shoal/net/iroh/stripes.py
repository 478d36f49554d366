"""Large frames over several streams at once: one alone is held back by its window when the path is long."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

CHUNK = 1 << 19  # bytes that are handed to, or taken from, iroh at a time


def spans(size: int, streams: int) -> list[tuple[int, int]]:
    """Begin and end of what each stream carries of a frame: equal parts but for the last ones."""
    part = -(-size // streams)
    return [(min(i * part, size), min((i + 1) * part, size)) for i in range(streams)]


def pieces(head: bytes, body: bytes, begin: int, end: int) -> Iterator[bytes]:
    """The bytes from `begin` to `end` of head and body behind each other, some at a time."""
    view = memoryview(body)
    while begin < end:
        stop = min(end, begin + CHUNK)
        if begin < len(head):
            stop = min(stop, len(head))
            yield head[begin:stop]
        else:
            yield bytes(view[begin - len(head) : stop - len(head)])
        begin = stop


async def scatter(streams: list[Any], head: bytes, body: bytes) -> None:
    """Write a frame in two parts to streams, each its span."""

    async def write(stream: Any, begin: int, end: int) -> None:
        for piece in pieces(head, body, begin, end):
            await stream.write_all(piece)

    each = spans(len(head) + len(body), len(streams))
    await all_or_none(*(write(stream, *span) for stream, span in zip(streams, each, strict=True)))


async def gather(streams: list[Any], size: int, noticed: Callable[[], None] = lambda: None) -> memoryview:
    """Read a frame of `size` bytes from streams. Memory is used as bytes arrive, not on the word of `size`.

    Args:
        streams: to read from, in the order in which they were written to.
        size: of the frame.
        noticed: called whenever something came.

    Raises:
        EOFError: a stream ended.
    """
    whole = np.empty(size, dtype=np.uint8).data  # untouched pages take no memory

    async def read(stream: Any, begin: int, end: int) -> None:
        while begin < end:
            piece = await stream.read(min(CHUNK, end - begin))
            if not piece:
                raise EOFError("a stream ended within a frame")
            noticed()
            whole[begin : begin + len(piece)] = piece
            begin += len(piece)

    await all_or_none(*(read(stream, *span) for stream, span in zip(streams, spans(size, len(streams)), strict=True)))
    return whole


async def all_or_none(*coroutines: Any) -> None:
    """Run coroutines at once; when one fails, the others are cancelled before its error is raised."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
