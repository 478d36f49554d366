"""The claim's own arithmetic."""

import pytest

pytest.importorskip("shoal.compression.rand_k")
from shoal.papers import masha as paper


def test_without_compression_it_is_extragradient() -> None:
    assert paper.exact(3, {}).holds


def test_every_seed_has_to_be_closer() -> None:
    found = {"extragradient": [1e-3, 1e-5], "MASHA1": [1e-4, 1e-6], "MASHA2": [1e-4, 1e-4], "naive": [0.1, 1e-4]}
    assert paper.closer("MASHA1", found).holds
    assert not paper.closer("MASHA2", found).holds
    assert not paper.stalls(found).holds
