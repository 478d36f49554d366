"""Frames in stripes: nothing lost, nothing twice, memory as bytes come."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.net.iroh.stripes import gather, pieces, scatter, spans


class Pipe:
    """A stream within the process, which gives what it has in bites of odd sizes."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.bites = 0

    async def write_all(self, data: bytes) -> None:
        assert isinstance(data, bytes)
        await asyncio.sleep(0)
        self.data += data

    async def read(self, size: int) -> bytes:
        await asyncio.sleep(0)
        self.bites += 1
        bite = bytes(self.data[: min(size, 1000 + 37 * self.bites)])
        del self.data[: len(bite)]
        return bite


@given(st.integers(0, 10_000), st.integers(1, 64))
def test_spans_cover_a_frame_without_overlap(size: int, streams: int) -> None:
    found = spans(size, streams)
    assert len(found) == streams
    assert [i for begin, end in found for i in range(begin, end)] == list(range(size))


@given(st.binary(max_size=50), st.binary(max_size=200), st.data())
def test_pieces_are_the_bytes_between(head: bytes, body: bytes, data: st.DataObject) -> None:
    whole = head + body
    begin = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(begin, len(whole)))
    assert b"".join(pieces(head, body, begin, end)) == whole[begin:end]


@pytest.mark.parametrize("streams", [1, 2, 7, 8])
@pytest.mark.parametrize("size", [0, 1, 7, 100_003, 5_000_000])
def test_what_is_scattered_is_gathered(streams: int, size: int) -> None:
    async def main() -> None:
        pipes = [Pipe() for _ in range(streams)]
        content = bytes(range(251)) * (size // 251 + 1)
        head, body = content[: size // 3], content[size // 3 : size]
        await scatter(pipes, head, body)
        assert bytes(await gather(pipes, size)) == head + body

    asyncio.run(main())


def test_a_stream_that_ends_early_is_an_error() -> None:
    async def main() -> None:
        pipes = [Pipe(), Pipe()]
        pipes[0].data += b"abcde"
        with pytest.raises(EOFError, match="ended within a frame"):
            await gather(pipes, 10)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left

    asyncio.run(main())


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="only Linux tells how much memory is touched")
def test_an_announced_length_takes_no_memory() -> None:
    def resident() -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096

    class Silent:
        async def read(self, size: int) -> bytes:
            await asyncio.Event().wait()
            return b""

    async def main() -> int:
        before = resident()
        task = asyncio.ensure_future(gather([Silent()], 1 << 30))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        grown = resident() - before
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return grown

    assert asyncio.run(main()) < 64 << 20
