"""A peer's own data: read as it was written, and refused in words where it does not suit the task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from shoal.deployment.data import read_data
from shoal.learning import Task
from shoal.simulation.tasks import digits, logistic_regression, text

RNG = np.random.default_rng(0)
INPUTS, TARGETS = RNG.random((20, 64), dtype=np.float32), RNG.integers(0, 10, 20)


@pytest.fixture(scope="module")
def task() -> Task:
    return digits()


def write(folder: Path, kind: str = "npz", **arrays: Any) -> Path:
    path = folder / f"data.{kind}"
    arrays = {"inputs": INPUTS, "targets": TARGETS, **arrays}
    arrays = {name: value for name, value in arrays.items() if value is not None}
    if kind == "npz":
        np.savez(path, **arrays)
    else:
        save_file({name: np.ascontiguousarray(value) for name, value in arrays.items()}, path)
    return path


@pytest.mark.parametrize("kind", ["npz", "safetensors"])
def test_what_was_written_is_read(tmp_path: Path, task: Task, kind: str) -> None:
    shard = read_data(write(tmp_path, kind), task)
    assert len(shard) == 20
    np.testing.assert_array_equal(shard.data.inputs[shard.indices], INPUTS)
    np.testing.assert_array_equal(shard.data.targets[shard.indices], TARGETS)


@pytest.mark.parametrize("kind", ["npz", "safetensors"])
def test_numbers_are_converted_to_the_task_s(tmp_path: Path, task: Task, kind: str) -> None:
    path = write(tmp_path, kind, inputs=INPUTS.astype(np.float64), targets=TARGETS.astype(np.uint8))
    shard = read_data(path, task)
    assert (shard.data.inputs.dtype, shard.data.targets.dtype) == (torch.float32, torch.int64)
    np.testing.assert_array_equal(shard.data.inputs, INPUTS)
    np.testing.assert_array_equal(shard.data.targets, TARGETS)


def spoilt(row: int, value: float) -> np.ndarray:
    inputs = INPUTS.copy()
    inputs[row, 5] = value
    return inputs


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"targets": None}, "targets is missing; inputs and targets are needed, it holds inputs"),
        ({"inputs": INPUTS.reshape(20, 8, 8)}, r"inputs: got samples of shape \[8, 8\].*the task has \[64\]"),
        ({"inputs": INPUTS[0, 0]}, r"inputs: got samples of shape \[\], in an array \[\]"),
        ({"targets": TARGETS[:, None]}, r"targets: got samples of shape \[1\]"),
        ({"inputs": INPUTS[:19]}, "equal length, got 19 and 20"),
        ({"inputs": INPUTS[:0], "targets": TARGETS[:0]}, "at least one sample"),
        ({"inputs": (INPUTS * 255).astype(np.uint8)}, "inputs: got uint8 numbers; the task has float32; scale them"),
        ({"inputs": INPUTS.astype(np.complex64)}, "inputs: got complex64 numbers"),
        ({"targets": TARGETS.astype(np.float32)}, "targets: got float32 numbers; the task has int64"),
        ({"targets": TARGETS + 1}, r"targets must lie in 0\.\.9, got 10, first at index"),
        ({"targets": TARGETS - 2}, r"targets must lie in 0\.\.9, got -1"),
        ({"inputs": spoilt(7, np.nan)}, "inputs must be finite, got NaN or infinity, first at index 7"),
        ({"inputs": spoilt(3, np.inf)}, "inputs must be finite, got NaN or infinity, first at index 3"),
        ({"inputs": np.where(INPUTS > 0.9, 1e300, 0.0)}, "inputs must be finite"),
    ],
)
def test_what_does_not_suit_the_task_is_refused(tmp_path: Path, task: Task, arrays: dict[str, Any], says: str) -> None:
    path = write(tmp_path, **arrays)
    with pytest.raises(ValueError, match=says) as caught:
        read_data(path, task)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


class Bomb:
    def __reduce__(self) -> Any:
        return exec, ("raise SystemExit('unpickled')",)


def test_pickled_objects_are_refused(tmp_path: Path, task: Task) -> None:
    path = write(tmp_path, targets=np.array([Bomb()] * 20, dtype=object))
    with pytest.raises(ValueError, match=r"data\.npz: .*allow_pickle"):
        read_data(path, task)


@pytest.mark.parametrize("kind", ["npz", "safetensors"])
@pytest.mark.parametrize("keep", [0, 1, 10, 100, 600])
def test_a_damaged_file_is_refused(tmp_path: Path, task: Task, kind: str, keep: int) -> None:
    path = write(tmp_path, kind)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=f"data.{kind}: "):
        read_data(path, task)


def test_files_that_are_not_there_or_of_another_kind_are_refused(tmp_path: Path, task: Task) -> None:
    with pytest.raises(ValueError, match="No such file"):
        read_data(tmp_path / "none.npz", task)
    with pytest.raises(ValueError, match=r"none\.safetensors: "):
        read_data(tmp_path / "none.safetensors", task)
    with pytest.raises(ValueError, match=r"kind '\.csv'; \.npz and \.safetensors are allowed"):
        read_data(tmp_path / "data.csv", task)


def test_tasks_without_classes_take_any_targets(tmp_path: Path) -> None:
    task = logistic_regression()
    train = task.dataset.train
    path = write(tmp_path, inputs=train.inputs[:9].numpy(), targets=train.targets[:9].numpy())
    assert len(read_data(path, task)) == 9


def test_letters_beyond_the_vocabulary_are_refused(tmp_path: Path) -> None:
    source = tmp_path / "text.txt"
    source.write_text("the quick brown fox jumps over the lazy dog. " * 200)
    task = text(path=str(source))
    train = task.dataset.train
    inputs = train.inputs[:5].clone()
    inputs[2, 3] = len(task.dataset.vocabulary or "")
    path = write(tmp_path, inputs=inputs.numpy(), targets=train.targets[:5].numpy())
    with pytest.raises(ValueError, match="the vocabulary has"):
        read_data(path, task)
