"""Files of optimizer states: whole or not there, free of pickle, and refused with a reason where they do not fit."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from shoal.optim.adamw import AdamW
from shoal.optim.lookahead import Lookahead
from shoal.optim.saving import KEY, _described, _restored, load, save
from shoal.optim.sgd import SGD
from tests.optim.catalogue import advance, parameters, same


def trained(steps: int = 3, **settings: Any) -> tuple[dict[str, nn.Parameter], AdamW]:
    params = parameters()
    optimizer = AdamW(params.items(), **settings)
    advance(optimizer, params, range(steps))
    return params, optimizer


def test_the_file_is_safetensors_with_the_tensors_of_the_state(tmp_path: Path) -> None:
    params, optimizer = trained(lr=0.25)
    save(optimizer, tmp_path / "new" / "folder" / "o.safetensors")
    with safe_open(tmp_path / "new" / "folder" / "o.safetensors", framework="pt") as file:
        names = set(file.keys())
        about = json.loads(file.metadata()[KEY])
        v = file.get_tensor("state.0.v")
    assert names == {f"state.{i}.{slot}" for i in range(len(params)) for slot in "mv"}
    assert torch.equal(v, optimizer.state_dict()["state"][0]["v"])
    assert about["optimizer"] == "AdamW"
    assert about["parameters"] == [[list(p.shape) for p in params.values()]]


def test_an_optimizer_that_has_not_stepped_can_be_saved(tmp_path: Path) -> None:
    _, optimizer = trained(0, lr=0.25)
    save(optimizer, str(tmp_path / "o"))
    _, fresh = trained(2)
    load(fresh, str(tmp_path / "o"))
    assert fresh.state_dict() == optimizer.state_dict()


def test_states_of_torchs_own_optimizers_can_be_saved_too(tmp_path: Path) -> None:
    params, again = parameters(), parameters()
    optimizer, fresh = torch.optim.Adam(params.values(), amsgrad=True), torch.optim.Adam(again.values())
    advance(optimizer, params, range(3))
    save(optimizer, tmp_path / "o")
    advance(fresh, again, range(3))
    load(fresh, tmp_path / "o")
    for name in params:
        again[name].data.copy_(params[name].data)
    advance(optimizer, params, range(3, 6))
    advance(fresh, again, range(3, 6))
    assert same(params, again)


def test_rates_may_be_tensors_even_shared_ones(tmp_path: Path) -> None:
    rate = torch.tensor(0.125)
    params = parameters()
    pairs = list(params.items())
    optimizer = AdamW([{"params": pairs[:1]}, {"params": pairs[1:]}], lr=rate)
    save(optimizer, tmp_path / "o")
    fresh = AdamW([{"params": pairs[:1]}, {"params": pairs[1:]}])
    load(fresh, tmp_path / "o")
    assert [group["lr"] for group in fresh.param_groups] == [rate, rate]
    assert all(isinstance(group["lr"], torch.Tensor) for group in fresh.param_groups)


numbers = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=5)
keys = st.integers(-5, 5) | st.sampled_from(["a", "a.b", "b", "tensor", "tuple", "dict", ""])
tensors = st.sampled_from([torch.float64, torch.bfloat16, torch.int8, torch.bool]).map(lambda d: torch.ones(2, dtype=d))
values = st.recursive(
    numbers | tensors,
    lambda inner: (
        st.lists(inner, max_size=3) | st.lists(inner, max_size=3).map(tuple) | st.dictionaries(keys, inner, max_size=3)
    ),
    max_leaves=8,
)


def alike(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(alike(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(alike, a, b))
    return bool(a == b)


@given(values)
def test_any_nested_state_comes_back_as_it_was(value: Any) -> None:
    found: dict[str, torch.Tensor] = {}
    text = json.dumps(_described(value, "", found))
    assert alike(_restored(json.loads(text), found), value)


def test_tensors_below_names_with_dots_are_kept_apart() -> None:
    state = {"a.b": torch.ones(1), "a": {"b": torch.zeros(2), "b'": torch.ones(3)}}
    found: dict[str, torch.Tensor] = {}
    described = _described(state, "", found)
    assert len(found) == 3
    assert alike(_restored(described, found), state)


def test_infinite_settings_come_back(tmp_path: Path) -> None:
    _, optimizer = trained(1)
    optimizer.param_groups[0]["bound"] = math.inf
    save(optimizer, tmp_path / "o")
    _, fresh = trained(0)
    load(fresh, tmp_path / "o")
    assert fresh.param_groups[0]["bound"] == math.inf


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def test_what_cannot_be_written_is_named_and_an_older_file_stays(tmp_path: Path) -> None:
    _, optimizer = trained(1)
    save(optimizer, tmp_path / "o")
    before = (tmp_path / "o").read_bytes()
    optimizer.param_groups[0]["chooser"] = len
    with pytest.raises(ValueError, match=r"^optimizer: param_groups\.0\.chooser is <built-in function len>; tensors"):
        save(optimizer, tmp_path / "o")
    assert (tmp_path / "o").read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["o"]


def test_a_failed_write_leaves_no_half_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, optimizer = trained(1)

    def fails(tensors: Any, path: Path, metadata: Any) -> None:
        Path(path).write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", fails)
    with pytest.raises(OSError, match="no space left"):
        save(optimizer, tmp_path / "o")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    _, optimizer = trained(1)
    with pytest.raises(FileNotFoundError, match=r"^path: there is no file .*nowhere"):
        load(optimizer, tmp_path / "nowhere")


def refused(path: Path, optimizer: torch.optim.Optimizer, match: str) -> None:
    """`load` raises, and changes nothing."""
    before = json.dumps(_described(optimizer.state_dict(), "", {}))
    with pytest.raises(ValueError, match=match):
        load(optimizer, path)
    assert json.dumps(_described(optimizer.state_dict(), "", {})) == before


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_a_cut_off_file_is_refused(tmp_path: Path, kept: int) -> None:
    _, optimizer = trained()
    save(optimizer, tmp_path / "o")
    (tmp_path / "o").write_bytes((tmp_path / "o").read_bytes()[:kept])
    refused(tmp_path / "o", optimizer, r"^path: .*o is not a whole safetensors file")


def test_a_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    _, optimizer = trained()
    torch.save(optimizer.state_dict(), tmp_path / "o.pt")
    refused(tmp_path / "o.pt", optimizer, r"^path: .*o\.pt is not a whole safetensors file")


def test_other_safetensors_are_refused(tmp_path: Path) -> None:
    _, optimizer = trained()
    save_file({"weight": torch.ones(2)}, tmp_path / "o")
    refused(tmp_path / "o", optimizer, r"^path: .*o holds tensors, but no optimizer's state")


def test_another_format_is_refused(tmp_path: Path) -> None:
    _, optimizer = trained()
    save_file({}, tmp_path / "o", metadata={KEY: json.dumps({"format": 99})})
    refused(tmp_path / "o", optimizer, r"^path: .*o is of format 99; 1 is allowed")


@pytest.mark.parametrize(
    "state",
    [
        {"tensor": "missing"},
        {"unknown": 1},
        {"tensor": "a", "tuple": []},
        {"dict": 5},
        {},
        {"tensor": "a"},
        {"dict": []},
    ],
)
def test_a_state_that_makes_no_sense_is_refused(tmp_path: Path, state: Any) -> None:
    params, optimizer = trained()
    shapes = [[list(p.shape) for p in params.values()]]
    about = {"format": 1, "optimizer": "AdamW", "parameters": shapes, "state": state}
    save_file({"a": torch.ones(1)}, tmp_path / "o", metadata={KEY: json.dumps(about)})
    refused(tmp_path / "o", optimizer, r"^path: .*o is damaged")


def test_the_state_of_another_class_is_refused(tmp_path: Path) -> None:
    params, optimizer = trained()
    save(optimizer, tmp_path / "o")
    refused(tmp_path / "o", SGD(params.items()), r"^path: .*o holds the state of AdamW; that of SGD is allowed")
    wrapped = Lookahead(AdamW(params.items()))
    refused(tmp_path / "o", wrapped, r"holds the state of AdamW; that of Lookahead\(AdamW\) is allowed")
    save(wrapped, tmp_path / "w")
    refused(
        tmp_path / "w", Lookahead(SGD(params.items())), r"of Lookahead\(AdamW\); that of Lookahead\(SGD\) is allowed"
    )


def test_other_parameters_are_refused(tmp_path: Path) -> None:
    _, optimizer = trained()
    save(optimizer, tmp_path / "o")
    fewer = parameters(shapes={"layer.weight": (6, 4)})
    refused(tmp_path / "o", AdamW(fewer.items()), r"^path: .*o is for groups of \[4\] parameters; \[1\] is allowed")
    other = parameters(shapes={"layer.weight": (6, 4), "layer.bias": (7,), "conv.weight": (3, 2, 2, 2), "scale": ()})
    refused(tmp_path / "o", AdamW(other.items()), r"parameter 1 of group 0 had shape \(6,\); \(7,\) is allowed")
