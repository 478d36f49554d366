"""The one switch that all threads share is put back by whoever leaves last."""

from __future__ import annotations

import itertools
import threading

import pytest
import torch

from shoal.tensors.attention import plain_attention


def switches() -> tuple[bool, ...]:
    backends = torch.backends.cuda
    return backends.flash_sdp_enabled(), backends.mem_efficient_sdp_enabled(), backends.math_sdp_enabled()


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_in_any_order_of_leaving_it_is_plain_to_the_last_and_then_as_before(order: tuple[int, ...]) -> None:
    before = switches()
    blocks = [plain_attention() for _ in order]
    for block in blocks:
        block.__enter__()
    for i in order:
        assert switches() == (False, False, True)
        blocks[i].__exit__(None, None, None)
    assert switches() == before


def test_an_error_leaves_it_as_it_was() -> None:
    before = switches()
    with pytest.raises(KeyError), plain_attention():
        raise KeyError
    assert switches() == before


def test_threads_that_overlap_leave_it_as_it_was() -> None:
    before, barrier, inside = switches(), threading.Barrier(2), []

    def first() -> None:
        with plain_attention():
            barrier.wait()  # the other one enters
            barrier.wait()

        barrier.wait()  # the other one looks, and leaves

    def second() -> None:
        barrier.wait()
        with plain_attention():
            barrier.wait()
            barrier.wait()
            inside.append(switches())

    threads = [threading.Thread(target=run) for run in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert inside == [(False, False, True)]
    assert switches() == before
