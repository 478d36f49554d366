"""A peer's own data: samples in a file that never leaves its machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shoal.learning import Shard, Task
from shoal.learning.data import Data, Dataset

FIELDS = ("inputs", "targets")


def read_data(path: str | Path, task: Task, device: torch.device | str = "cpu") -> Shard:
    """The samples of a file, as the shard of a peer.

    Numbers may be wider or narrower than the task's, as float64 for float32, and are converted; whole numbers never
    stand in for others, since what scale they have is not known.

    Args:
        path: NumPy's `.npz` or `.safetensors`, with `inputs` [N, ...] and `targets` [N, ...]. Pickled objects are
            refused.
        task: what is learned; samples must be of its form.
        device: torch device to hold them.

    Raises:
        ValueError: the file cannot be read, or its samples do not suit the task; the message begins with its name.
    """
    path = Path(path)
    try:
        arrays = _read(path)
        missing = [field for field in FIELDS if field not in arrays]
        if missing:
            held = ", ".join(sorted(arrays)[:8]) or "nothing"
            raise ValueError(f"{missing[0]} is missing; inputs and targets are needed, it holds {held}")
        known = task.dataset
        inputs = _suited("inputs", arrays["inputs"], known.train.inputs)
        targets = _suited("targets", arrays["targets"], known.train.targets)
        if known.vocabulary is not None and len(inputs) and int(inputs.max()) >= len(known.vocabulary):
            raise ValueError(f"inputs: got {int(inputs.max())}; the vocabulary has {len(known.vocabulary)} entries")
        if known.vocabulary is not None and len(inputs) and int(inputs.min()) < 0:
            raise ValueError(f"inputs: got {int(inputs.min())}; numbers from 0 are allowed")
        data = Dataset(known.name, Data(inputs, targets), known.test, classes=known.classes).train
    except ValueError as error:
        raise ValueError(f"{path}: {str(error).replace('train.', '')}") from None
    return Shard(Data(data.inputs.to(device), data.targets.to(device)), torch.arange(len(data)))


def _read(path: Path) -> dict[str, Tensor]:
    readers = {".npz": _read_npz, ".safetensors": _read_safetensors}
    reader = readers.get(path.suffix)
    if reader is None:
        raise ValueError(f"got a file of kind {path.suffix!r}; {' and '.join(readers)} are allowed")
    try:
        return reader(path)
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from None


def _read_npz(path: Path) -> dict[str, Tensor]:
    import zipfile

    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as archive:
            if not hasattr(archive, "files"):
                raise ValueError("it is one array; numpy.savez(file, inputs=..., targets=...) writes what is needed")
            return {name: torch.from_numpy(np.ascontiguousarray(archive[name])) for name in FIELDS if name in archive}
    except (zipfile.BadZipFile, EOFError):
        raise ValueError("it is damaged, or no .npz file") from None
    except TypeError as error:  # torch's word for text, dates and other things that are no numbers
        raise ValueError(str(error)) from None


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
    except SafetensorError as error:
        raise ValueError(f"it is damaged, or no .safetensors file ({error})") from None


def _suited(field: str, given: Tensor, wanted: Tensor) -> Tensor:
    """The tensor in the task's form."""
    if given.ndim == 0 or given.shape[1:] != wanted.shape[1:]:
        raise ValueError(
            f"{field}: got samples of shape {list(given.shape[1:])}, in an array {list(given.shape)}; "
            f"the task has {list(wanted.shape[1:])}"
        )
    if _kind(given) != _kind(wanted):
        hint = "; scale them as the task's are" if field == "inputs" and _kind(wanted) == "floating" else ""
        raise ValueError(f"{field}: got {_name(given)} numbers; the task has {_name(wanted)}{hint}")
    converted = given.to(wanted.dtype)
    if _kind(given) == "whole" and not torch.equal(converted.to(given.dtype), given):
        raise ValueError(f"{field}: some of its {_name(given)} numbers are too large for {_name(wanted)}")
    return converted


def _kind(tensor: Tensor) -> str:
    if tensor.is_complex() or tensor.dtype == torch.bool:
        return _name(tensor)
    return "floating" if tensor.is_floating_point() else "whole"


def _name(value: Any) -> str:
    return str(value.dtype).removeprefix("torch.")
