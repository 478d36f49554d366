"""Datasets by name, and the one that is always there: the digits embedded in scikit-learn."""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from shoal.learning.data.dataset import Data, Dataset, hold_out
from shoal.learning.data.heavy_tail import heavy_tail
from shoal.learning.data.images import DatasetNotFound, fashion_mnist, mnist
from shoal.learning.data.opposing import opposing
from shoal.learning.data.synthetic import logistic, quadratic
from shoal.learning.data.text import text

log = logging.getLogger(__name__)


def digits() -> Dataset:
    """Handwritten digits, 8 x 8: inputs float32 [N, 64] in 0..1, targets int64 [N] in 0..9; 1,797 images.

    E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI 1998, as embedded in
    scikit-learn. The split is that of `hold_out`: every fifth image of each class, in the order of the file,
    is test.
    """
    table = _digits_table()
    inputs = torch.from_numpy(np.true_divide(table[:, :64], np.float32(16), dtype=np.float32))
    train, test = hold_out(Data(inputs, torch.from_numpy(table[:, 64].astype(np.int64))))
    return Dataset("digits", train, test, classes=10, source="embedded in scikit-learn")


def _digits_table() -> np.ndarray[Any, np.dtype[np.uint8]]:
    """1,797 rows of 64 pixels in 0..16 and the label."""
    # Importing scikit-learn costs a second, reading its file 20 ms.
    package = importlib.util.find_spec("sklearn")
    for folder in (package.submodule_search_locations or ()) if package else ():
        path = Path(folder, "datasets", "data", "digits.csv.gz")
        if path.is_file():
            return np.loadtxt(path, delimiter=",", dtype=np.uint8)
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return np.column_stack([bunch.data, bunch.target]).astype(np.uint8)


_FROM_FILES: Mapping[str, Callable[..., Dataset]] = {"fashion_mnist": fashion_mnist, "mnist": mnist}

_BUILT: Mapping[str, Callable[..., Dataset]] = {
    "digits": digits,
    "quadratic": quadratic,
    "logistic": logistic,
    "text": text,
    "heavy_tail": heavy_tail,
    "opposing": opposing,
}

NAMES = (*_BUILT, *_FROM_FILES)
"""The names that `load` knows."""


def load(
    name: str,
    *,
    root: str | Path | None = None,
    download: bool = True,
    fallback: bool = False,
    **options: Any,
) -> Dataset:
    """A dataset by its name: one of `NAMES`; "fashion-mnist" and "fashion_mnist" are the same.

    root: directory to look in first (image datasets; see `images.images` for the others).
    download: whether the image datasets may be downloaded if this machine has none.
    fallback: give the digits instead of failing when an image dataset cannot be had; `Dataset.source` says
        so, and a warning is logged. A damaged file is always refused.
    options: passed to the function of that name, e.g. `load("quadratic", peers=8, dimension=50)`.

    Raises ValueError for an unknown name or option, and what the function itself raises.
    """
    known = name.replace("-", "_")
    if known not in NAMES:
        raise ValueError(f"name must be one of {', '.join(NAMES)}, got {name!r}")
    build = _BUILT.get(known) or _FROM_FILES[known]
    allowed = set(inspect.signature(build).parameters) - {"root", "download"}
    unknown = sorted(set(options) - allowed)
    if unknown:
        raise ValueError(
            f"options of {known} must be among {sorted(allowed) or 'none at all'}, got {', '.join(unknown)}"
        )
    if known in _BUILT:
        return build(**options)
    try:
        return build(root=root, download=download)
    except DatasetNotFound as error:
        if not fallback:
            raise DatasetNotFound(f"{error}. Give root, or fallback for the embedded digits") from error
        log.warning("using the embedded digits instead of %s: %s", known, error)
        source = f"embedded digits instead of {known}, which was neither found nor downloaded"
        return dataclasses.replace(digits(), source=source)
