"""How far runs are: bars at a terminal, plain lines elsewhere."""

import io

import pytest
from rich.console import Console

from shoal.cli.progress import Bars, Lines, StageBars, StageLines, display
from shoal.simulation import Run
from shoal.simulation.simulate import Progress

INFO = {
    "data": {"source": "thin air"},
    "virtual_seconds": 600.0,
    "bytes": {"total": 2_500_000},
    "summary": {"loss": {"mean": 0.25}, "accuracy": {"mean": 0.9}},
}


def state(done):
    return Progress(done, 8, 1.5 * done, 1000 * done, {"accuracy": 0.1 * done, "loss": 2.0}, Run(None, INFO))


@pytest.fixture
def clock(monkeypatch):
    """Wall seconds, moved by hand."""
    now = [100.0]
    monkeypatch.setattr("shoal.cli.progress.time.monotonic", lambda: now[0])
    return now


def test_lines_come_at_the_start_every_few_seconds_and_at_the_end(clock, capsys):
    with Lines() as lines:
        lines.begin("gossip")
        for done in range(9):
            lines.show(state(done))
            clock[0] += 2.0
        lines.end(INFO)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "gossip: data: thin air",
        "gossip: 38%  4.5 s  3 kB  accuracy 0.3  loss 2",
        "gossip: 75%  9 s  6 kB  accuracy 0.6  loss 2",
        "gossip: done  10 min  2.5 MB  accuracy 0.9  loss 0.25",
    ]


def test_a_run_that_never_began_leaves_no_line(capsys):
    with Lines() as lines:
        lines.begin("gossip")
    assert capsys.readouterr().err == ""


def terminal():
    return Console(file=io.StringIO(), force_terminal=True, width=80, color_system=None)


def screen(console):
    """What the last refresh showed."""
    text = console.file.getvalue().replace("\x1b[?25h", "").replace("\x1b[?25l", "")
    return [line.split("\x1b[2K")[-1].rstrip() for line in text.rstrip("\n").split("\n")]


def test_bars_fit_80_columns_and_end_full():
    console = terminal()
    with Bars(console) as bars:
        for name in ("gossip", "a-name-longer-than-any"):
            bars.begin(name)
            bars.show(state(0))
            bars.show(state(4))
            bars.end(INFO)
    lines = screen(console)
    assert [line for line in lines if line == "data: thin air"] == ["data: thin air"]
    for line, name in zip(lines[-2:], ("gossip ", "a-name-longer"), strict=True):
        assert line.startswith(name)
        assert "100% 10 min  2.5 MB  accuracy 0.9  loss 0.25" in line
        assert len(line) <= 80


def test_a_bar_that_was_interrupted_stays_where_it_was():
    console = terminal()
    with Bars(console) as bars:
        bars.begin("gossip")
        bars.show(state(4))
    assert " 50% 6 s  4 kB  accuracy 0.4  loss 2" in screen(console)[-1]


def test_a_run_that_never_began_leaves_no_bar():
    console = terminal()
    with Bars(console) as bars:
        bars.begin("gossip")
    assert not any("gossip" in line for line in screen(console)[-1:])


@pytest.mark.parametrize(("terminal", "kind"), [("xterm", Bars), ("dumb", Lines)])
def test_bars_are_for_terminals_that_can_move_the_cursor(monkeypatch, terminal, kind):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("TERM", terminal)
    monkeypatch.setattr("sys.stderr", Terminal())
    assert type(display()) is kind


def test_lines_are_for_everything_else(monkeypatch):
    monkeypatch.setattr("sys.stderr", io.StringIO())
    assert type(display()) is Lines


def test_stages_have_a_line_when_they_begin_every_few_seconds_and_when_they_are_done(clock, capsys):
    lines = StageLines()
    lines("preparing", 0, 0)
    for done in range(1, 5):
        lines("training", done, 4, "error 0.5")
        clock[0] += 3.0
    assert capsys.readouterr().err.splitlines() == [
        "preparing",
        "training: 25%, error 0.5",
        "training: 75%, error 0.5",
        "training: 100%, error 0.5",
    ]


def test_stages_have_a_bar_each_which_is_full_when_the_next_begins():
    console = terminal()
    with StageBars(console) as bars:
        bars("preparing", 0, 0)
        bars("training", 1, 4, "error 0.5")
        bars("noise", 1, 4)
    shown = screen(console)[-3:]
    assert [line.split()[0] for line in shown] == ["preparing", "training", "noise"]
    assert all("100%" in line for line in shown)


def test_a_stage_that_fails_leaves_its_bar_as_it_was():
    console = terminal()
    bars = StageBars(console)
    bars.__enter__()
    bars("training", 1, 4)
    bars.__exit__(RuntimeError)
    assert "25%" in screen(console)[0]
