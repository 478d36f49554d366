"""The comparison, as rows and in the terminal."""

import io

from rich.console import Console

from shoal.report import RunFolder, compare, summary_table
from shoal.report.series import main_metric
from shoal.report.table import headings


def printed(runs):
    console = Console(file=io.StringIO(), width=220)
    console.print(summary_table(runs))
    return console.file.getvalue()


def test_rows_state_the_facts_of_each_run(make_run):
    stats = {"accuracy": {"mean": 0.9123, "std": 0.004, "min": 0.88, "max": 0.93}}
    path = make_run("a", peers=4, rounds=20, summary=stats, virtual_seconds=600, bytes={"total": 8_000_000})
    row = compare([RunFolder(path)])[0]
    assert row.cells == (
        "a", "gossip", "4", "20", "91.2 ± 0.4 %", "88.0 .. 93.0 %", "10 min", "8 MB", "2 MB", "finished",
    )  # fmt: skip


def test_terminal_and_rows_show_the_same(make_run):
    runs = [RunFolder(make_run("a")), RunFolder(make_run("b", status="interrupted", metrics=("loss",)))]
    text = printed(runs)
    for row in compare(runs):
        assert all(cell in text for cell in row.cells)
    assert all(heading in text for heading in headings(main_metric(runs)))


def test_a_bare_run_is_a_row_of_dashes(tmp_path):
    (tmp_path / "run.json").write_text('{"format": 1, "protocol": "p", "peers": 1, "status": "failed"}')
    row = compare([RunFolder(tmp_path)])[0]
    assert row.cells[3:] == ("–",) * 6 + ("failed",)
    assert not row.whole


def test_a_single_model_has_no_spread(make_run):
    row = compare([RunFolder(make_run(peers=1, summary=...))])[0]
    assert "±" not in row.final


def test_one_of_several_peers_has_no_spread(make_run):
    path = make_run("a", peers=4, summary={"accuracy": {"mean": 0.9, "std": 0.0, "min": 0.9, "max": 0.9}})
    lines = (path / "metrics.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    watched = [line for line in lines if line.split(",")[3] in ("peer", "2")]
    (path / "metrics.csv").write_text("".join(watched), encoding="utf-8")
    row = compare([RunFolder(path)])[0]
    assert (row.final, row.extremes) == ("90.0 %", "–")


def test_names_are_text_not_markup_or_control_codes(make_run):
    text = printed([RunFolder(make_run(name="[red]x[/red] \x1b[2Jy"))])
    assert "[red]x[/red]" in text
    assert "\x1b[2J" not in text


def test_a_real_peer_has_no_spread_and_sent_what_it_sent_itself(make_run):
    stats = {"accuracy": {"mean": 0.9, "std": 0.0, "min": 0.9, "max": 0.9}}
    real = {"on": "iroh", "peer": 3, "peers": 4, "summary": stats, "bytes": {"total": 8_000_000}}
    row = compare([RunFolder(make_run("a", **real))])[0]
    assert row.final == "90.0 %"
    assert (row.extremes, row.bytes_total, row.bytes_per_peer) == ("–", "8 MB", "8 MB")
