"""Nowcasters as files: safetensors with the network's shape and how it was trained in the metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from shoal.files import write_tensors
from shoal.optim.nino.network import NETWORKS, Nowcaster, Shape

KEY = "shoal.nowcaster"
SHIPPED = Path(__file__).with_name("nowcaster.safetensors")
SHIPPED_SINGLE = Path(__file__).with_name("wnn.safetensors")


def save(network: Nowcaster, path: str | Path, about: Mapping[str, Any] | None = None) -> None:
    """Write a nowcaster, whole or not at all.

    Args:
        network: to write.
        path: file to write or to replace.
        about: how it was trained; anything that JSON takes.

    Raises:
        OSError: the file cannot be written, and why.
    """
    kind = next(name for name, cls in NETWORKS.items() if type(network) is cls)
    told = {"network": kind, "shape": asdict(network.shape), "training": dict(about or {})}
    tensors = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    write_tensors(Path(path), tensors, {KEY: json.dumps(told)})


def load(path: str | Path = SHIPPED) -> Nowcaster:
    """Read a nowcaster, which needs no gradients; without a path the one that comes with the package.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds no nowcaster, or is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    told = about(path)
    try:
        network = NETWORKS[told["network"]](Shape(**told["shape"]))
        network.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError, KeyError, TypeError) as error:
        raise ValueError(f"path: {path} holds no nowcaster ({error})") from None
    return network.eval().requires_grad_(False)


def about(path: str | Path = SHIPPED) -> dict[str, Any]:
    """What the metadata says: "network", "shape" and "training".

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds no nowcaster.
    """
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise FileNotFoundError(f"path: there is no file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            told = json.loads((file.metadata() or {}).get(KEY, "null"))
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise ValueError(f"path: {path} is not a whole safetensors file ({error})") from None
    if not isinstance(told, dict):
        raise ValueError(f"path: {path} holds tensors, but no nowcaster; files of `shoal nowcast train` are allowed")
    return told
