"""Files appear whole or not at all, and say why they do not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from shoal.files import check_file, write_tensors
from shoal.optim import SGD
from shoal.optim.nino import load
from shoal.optim.nino.files import save as save_nowcaster
from shoal.optim.saving import save

NOWHERE = Path("/proc/nowhere")  # a folder in which nobody can make files, not even root


def test_tensors_come_back(tmp_path: Path) -> None:
    write_tensors(tmp_path / "new" / "x", {"a": torch.arange(3)}, {"k": "v"})
    assert torch.equal(load_file(tmp_path / "new" / "x")["a"], torch.arange(3))
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["x"]


@pytest.mark.skipif(not NOWHERE.parent.is_dir(), reason="there is no /proc")
def test_what_safetensors_cannot_write_is_an_error_of_the_system_with_the_files_name() -> None:
    optimizer = SGD([nn.Parameter(torch.ones(2))])
    for write in (lambda: save(optimizer, NOWHERE), lambda: save_nowcaster(load(), NOWHERE)):
        with pytest.raises(FileNotFoundError) as found:
            write()
        assert found.value.filename == str(NOWHERE)


def test_a_file_is_checked_and_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    check_file(tmp_path / "file")
    check_file(tmp_path / "new" / "file")
    assert (tmp_path / "file").read_text() == "x"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    with pytest.raises(IsADirectoryError):
        check_file(tmp_path)
    with pytest.raises(NotADirectoryError):
        check_file(tmp_path / "file" / "x")
