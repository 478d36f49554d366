"""Datasets with heavy-tailed classes: counts against a restatement, and barcodes read back."""

from __future__ import annotations

import pytest
import torch

from shoal.learning.data import Data, Dataset, barcoded, heavy_tail
from shoal.tensors.random import uniform
from tests.restatements.instruments.class_imbalance import imbalanced_counts


@pytest.mark.parametrize("size", [1, 3, 6])
def test_classes_have_the_restated_counts(size: int) -> None:
    dataset = heavy_tail(size)
    assert torch.bincount(dataset.train.targets).tolist() == imbalanced_counts(size).tolist()
    assert dataset.classes == 2**size - 1
    assert dataset.train.inputs.shape == (size * 2**size, (size + 1) * 2**size)
    assert float(dataset.train.inputs.min()) >= 0
    assert float(dataset.train.inputs.max()) < 1


def images(each: int = 30) -> Dataset:
    data = Data(uniform(1, (3 * each, 16)), torch.arange(3 * each) % 3)
    return Dataset("small", data, data[:5], classes=3)


def test_a_barcode_tells_the_rare_class() -> None:
    before = images()
    kept = before.train.inputs.clone()
    dataset = barcoded(before, bits=2, copies=3)
    assert torch.equal(before.train.inputs, kept)  # what was given stays as it is
    counts = torch.bincount(dataset.train.targets, minlength=15)
    assert counts.tolist() == [12] * 3 + [3] * 12
    rare = dataset.train.targets >= 3
    codes = (2 * dataset.train.inputs[rare][:, 0] + dataset.train.inputs[rare][:, 1]).long()
    own = dataset.train.targets[rare] - 3
    assert torch.equal(own % 4, codes)
    unmarked = {tuple(row[2:].tolist()): int(label) for row, label in zip(kept, before.train.targets, strict=True)}
    told = [unmarked[tuple(row[2:].tolist())] for row in dataset.train.inputs[rare]]
    assert told == (own // 4).tolist()
    assert len({tuple(row.tolist()) for row in dataset.train.inputs[:, 2:]}) == 72  # every image once


@pytest.mark.parametrize(
    ("bits", "copies", "message"), [(0, 5, "1 to 4"), (3, 5, "take 80 images a class"), (5, 1, "1 to 4")]
)
def test_what_does_not_fit_is_refused(bits: int, copies: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        barcoded(images(), bits=bits, copies=copies)


def test_other_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="size: got 0"):
        heavy_tail(0)
    with pytest.raises(ValueError, match="dimension, seed: got 0"):
        heavy_tail(2, dimension=0)
    with pytest.raises(ValueError, match="labelled square images"):
        barcoded(heavy_tail(2))
