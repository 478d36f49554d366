"""The table of runs in terminals of any width."""

import io

import pytest
from rich.console import Console

from shoal.report import RunFolder, compare, summary_table
from shoal.simulation import Run


@pytest.fixture
def runs(tmp_path):
    folders = []
    for number, name in enumerate(["gossip", "fedavg", "alone"]):
        spread = {"mean": 0.8123, "std": 0.0123, "min": 0.7321, "max": 0.8771}
        info = {
            "format": 1, "protocol": f"{name}:fraction=1.0,steps=10", "name": name, "peers": 32, "rounds": 40,
            "status": "interrupted" if number == 2 else "finished", "virtual_seconds": 31.9,
            "bytes": {"total": 1_950_000_000}, "summary": {"accuracy": spread},
        }  # fmt: skip
        Run(tmp_path / name, info, [(0.0, 0, 0, 0, "accuracy", 0.1)]).save()
        folders.append(RunFolder(tmp_path / name))
    return folders


def printed(runs, width):
    console = Console(file=io.StringIO(), width=width)
    console.print(summary_table(runs, width))
    return console.file.getvalue()


@pytest.mark.parametrize("width", range(56, 161, 8))
def test_no_cell_is_broken_and_what_matters_most_is_there(runs, width):
    lines = printed(runs, width).splitlines()
    assert max(map(len, lines)) <= width
    assert len(lines) - len(runs) in (1, 2)
    for line, row in zip(lines[-len(runs) :], compare(runs), strict=True):
        for cell in (row.run, row.final, row.time, row.bytes_total, row.status):
            assert cell in line


def test_a_wide_terminal_shows_everything_and_a_narrow_one_what_fits(runs):
    def shown(width):
        return [cell for cell in compare(runs)[0].cells if cell in printed(runs, width)]

    assert len(shown(160)) == 10
    counts = [len(shown(width)) for width in range(56, 161, 8)]
    assert counts == sorted(counts)
    assert "73.2 .. 87.7 %" in shown(88)
    assert printed(runs, 160) == printed(runs, 1000).replace(" " * 840, "")
