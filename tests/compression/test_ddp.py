"""The hook for DistributedDataParallel, in two real processes that meet by a file and talk by gloo."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from shoal.compression import Codec, ErrorFeedback, Identity, Sign
from shoal.compression.codec import USES, Use
from shoal.compression.ddp import HookState, ddp_hook
from shoal.tensors import Layout

ROOT = Path(__file__).parents[2]
Found = Sequence[dict[str, Any]]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What both processes wrote down."""
    folder = tmp_path_factory.mktemp("ddp")
    argv = [sys.executable, "-m", "tests.compression.ddp_process"]
    started = [
        subprocess.Popen([*argv, str(rank), str(folder)], cwd=ROOT, stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    try:
        errors = [process.communicate(timeout=120)[1] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0], errors
    return [json.loads((folder / f"{rank}.json").read_text(encoding="utf-8")) for rank in range(2)]


@pytest.mark.parametrize("name", ["plain", "identity", "ef+sign", "int8", "ef+powersgd"])
def test_replicas_stay_identical(found: Found, name: str) -> None:
    assert found[0][name]["model"] == found[1][name]["model"]
    assert found[0][name]["losses"] != found[1][name]["losses"]  # though their data are not


def test_without_compression_training_is_that_of_plain_ddp_bit_for_bit(found: Found) -> None:
    """Of two gradients the mean has one order only, and halves are exact."""
    assert found[0]["identity"]["model"] == found[0]["plain"]["model"]
    assert found[0]["identity"]["losses"] == found[0]["plain"]["losses"]


@pytest.mark.parametrize("name", ["ef+sign", "int8", "ef+powersgd"])
def test_compressed_training_learns_nearly_as_well(found: Found, name: str) -> None:
    losses, plain = found[0][name]["losses"], found[0]["plain"]["losses"]
    assert losses != plain
    assert plain[-1] < 0.6 * plain[0]
    assert losses[-1] < 0.75 * losses[0]


@pytest.mark.parametrize(("name", "least"), [("ef+sign", 12.0), ("int8", 3.0), ("ef+powersgd", 8.0)])
def test_the_kernel_counts_fewer_bytes_on_the_wire(found: Found, name: str, least: float) -> None:
    """Of two processes, each sends the other what plain DDP's all-reduce would send: one vector, here encoded."""
    plain, packed = found[0]["plain"]["wire"], found[0][name]["wire"]
    envelopes = plain - found[0][name]["plain"]
    assert envelopes >= 0
    assert plain / packed > least
    # The state's count is that of the wire but for what gloo adds: sizes and bytes are two messages in place of one.
    assert found[0][name]["sent"] <= packed <= found[0][name]["sent"] + 2 * envelopes


def test_every_entry_has_one_memory_after_the_buckets_have_changed(found: Found) -> None:
    entries = sum(map(len, found[0]["plain"]["model"]))
    assert found[0]["ef+sign"]["covered"] == entries
    assert found[0]["ef+sign"]["buckets"] > 1


def test_nan_in_one_process_is_refused_in_all(found: Found) -> None:
    for rank in range(2):
        assert "rank 1 has NaN" in found[rank]["refusal"]


def test_memories_go_when_all_their_parameters_have_moved() -> None:
    state, _ = ddp_hook(Sign())
    layout = Layout.from_shapes({"0": (1,)})
    for params, left in [((1, 2), 1), ((3,), 2), ((2, 3), 2), ((1,), 2)]:
        state.memories[params] = (layout, {})
        state.forget()
        assert len(state.memories) == left
    assert set(state.memories) == {(2, 3), (1,)}


def test_errors_move_with_their_parameters_into_new_buckets() -> None:
    state, _ = ddp_hook(ErrorFeedback(Sign()))
    cpu = torch.device("cpu")
    first, second = Layout.from_shapes({"0": (2,), "1": (3,)}), Layout.from_shapes({"0": (1,)})
    state.memories = {
        (11, 12): (first, {"error": torch.arange(5.0)}),
        (13,): (second, {"error": torch.tensor([9.0])}),
    }
    new = Layout.from_shapes({"0": (3,), "1": (1,)})
    assert state.memory_of((12, 13), new, cpu)["error"].tolist() == [2.0, 3.0, 4.0, 9.0]
    assert state.memory_of((11, 12), first, cpu)["error"].tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]


class ForModels(Identity):
    """A codec that is not for gradients."""

    suits: tuple[Use, ...] = USES[:1]  # type: ignore[misc]


@pytest.mark.parametrize("codec", ["ef+sign", Sign, ForModels()])
def test_what_encodes_no_gradients_is_refused(codec: Codec) -> None:
    with pytest.raises(ValueError, match="codec: "):
        ddp_hook(codec)


def test_what_is_no_bucket_is_refused() -> None:
    state, hook = ddp_hook(Sign())
    assert isinstance(state, HookState)
    with pytest.raises(ValueError, match="DistributedDataParallel alone"):
        hook(state, torch.zeros(3))  # type: ignore[arg-type]
