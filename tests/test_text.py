"""Values in messages: one line, and cut with a mark."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from shoal.text import cut, shown


@given(st.text(), st.integers(1, 50))
def test_what_is_cut_begins_as_the_text_and_says_so(text: str, most: int) -> None:
    found = cut(text, most)
    assert found == (text if len(text) <= most else text[: most - 1] + "…")


def test_a_value_is_one_line_of_its_beginning() -> None:
    assert shown("short") == "'short'"
    assert shown(torch.zeros(3, 3)) == "tensor([[0., 0., 0.], [0., 0., 0.], [0., 0., 0.]])"
    assert shown("x" * 100) == "'" + "x" * 78 + "…"
    assert shown([1] * 100, 10) == "[1, 1, 1,…"
