"""Run folders are read back as written, and what is no run folder is named with its reason."""

import json
import math

import numpy as np
import pytest

from shoal.report.folder import COLUMNS, NotARun, RunFolder, discover, labels, read_metrics


def test_a_run_reads_back_what_was_written(make_run):
    run = RunFolder(make_run("alpha", peers=5, rounds=3))
    info = json.loads((run.path / "run.json").read_text())
    assert run.info == info
    assert (run.name, run.facts.peers, run.facts.rounds) == ("alpha", 5, 3)
    assert run.ledger.total == info["bytes"]["total"]
    assert run.ledger.channels["exchange"].lost == info["bytes"]["channels"]["exchange"]["lost"]
    lines = (run.path / "metrics.csv").read_text().splitlines()[1:]
    columns = [getattr(run.metrics, name).tolist() for name in COLUMNS]
    assert [",".join(map(str, row)) for row in zip(*columns, strict=True)] == lines


def test_events_are_the_lines_of_the_log(make_run):
    run = RunFolder(make_run())
    lines = (run.path / "log.jsonl").read_text().splitlines()
    assert list(run.events()) == [json.loads(line) for line in lines]
    with (run.path / "log.jsonl").open("a") as log:
        log.write('{"time": 9, "event": "torn')
    assert len(list(run.events())) == len(lines)


def test_optional_files_and_fields_may_be_missing(tmp_path):
    (tmp_path / "run.json").write_text('{"format": 1, "protocol": "gossip", "peers": 3}')
    run = RunFolder(tmp_path)
    assert len(run.metrics) == 0
    assert run.metrics.names == ()
    assert list(run.events()) == []
    assert run.ledger.total is None
    assert run.name == tmp_path.name


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not JSON"),
        ("[1]", "no format"),
        ('{"peers": 3}', "no format"),
        ('{"format": 2, "protocol": "x", "peers": 3}', "format 2; this version of shoal reads format 1"),
        ('{"format": "1", "protocol": "x", "peers": 3}', "format '1'"),
        ('{"format": true, "protocol": "x", "peers": 3}', "format True"),
        ('{"format": 1, "peers": 3}', "protocol"),
        ('{"format": 1, "protocol": "x", "peers": "three"}', r"\$.peers"),
        (
            '{"format": 1, "protocol": "x", "peers": 3, "topology": {"peers": 3, "edges": [[1]]}}',
            r"\$.topology",
        ),
    ],
)
def test_an_unreadable_run_is_refused_by_name_and_reason(tmp_path, text, reason):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(NotARun, match=reason) as refused:
        RunFolder(tmp_path)
    assert str(tmp_path / "run.json") in str(refused.value)


def test_a_folder_that_is_missing_or_no_run_is_refused(tmp_path):
    with pytest.raises(NotARun, match="does not exist"):
        RunFolder(tmp_path / "nowhere")
    with pytest.raises(NotARun, match=r"no run\.json"):
        RunFolder(tmp_path)


@pytest.mark.parametrize("row", ["1,2,3,4,loss", "1,2,3,4,loss,much", "1,2.5,3,4,loss,1"])
def test_a_row_that_is_wrong_is_refused_with_its_line(tmp_path, row):
    path = tmp_path / "metrics.csv"
    path.write_text(f"{','.join(COLUMNS)}\n0,0,0,0,loss,1.0\n{row}\n")
    with pytest.raises(NotARun, match="line 3"):
        read_metrics(path)


def test_a_missing_column_is_named(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("time,round,bytes,metric,value\n")
    with pytest.raises(NotARun, match="no column peer"):
        read_metrics(path)


def test_the_torn_last_row_of_an_interrupted_run_is_dropped(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text(f"{','.join(COLUMNS)}\n0,0,0,0,loss,1.5\n1,1,10,0,loss,0.12")
    assert read_metrics(path).value.tolist() == [1.5]


def test_column_order_and_further_columns_do_not_matter(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("value,extra,metric,peer,bytes,round,time\r\nnan,?,loss,3,20,2,0.5\r\n")
    metrics = read_metrics(path)
    assert math.isnan(metrics.value[0])
    assert [getattr(metrics, name)[0] for name in COLUMNS[:5]] == [0.5, 2, 20, 3, "loss"]


def test_rows_are_told_apart_by_metric_and_by_peer(make_run):
    metrics = RunFolder(make_run(peers=4, rounds=2, average=True)).metrics
    assert set(metrics.peers.peer) == {0, 1, 2, 3}
    assert set(metrics.average.peer) == {-1}
    assert len(metrics.peers) + len(metrics.average) == len(metrics)
    assert sum(len(metrics.of(name)) for name in metrics.names) == len(metrics)
    assert np.all(metrics.of("loss").metric == "loss")


def test_discover_expands_folders_in_natural_order_and_takes_each_run_once(make_run, tmp_path):
    for name in ("sweep/run-10", "sweep/run-2", "sweep/deep/run-1", "other"):
        make_run(name)
    sweep = tmp_path / "sweep"
    found = discover([sweep, sweep / "run-2", tmp_path / "other" / "run.json"])
    names = [str(run.path.relative_to(tmp_path)) for run in found]
    assert names == ["sweep/deep/run-1", "sweep/run-2", "sweep/run-10", "other"]


def test_discover_leaves_out_what_is_broken_among_others_and_says_so(make_run, tmp_path):
    sweep = make_run("sweep/a").parent
    (sweep / "b").mkdir()
    (sweep / "b" / "run.json").write_text("{", encoding="utf-8")
    said = []
    assert [run.path.name for run in discover([sweep], said.append)] == ["a"]
    assert len(said) == 1
    assert "b/run.json is not JSON" in str(said[0])
    with pytest.raises(NotARun, match=r"b.run.json is not JSON"):
        discover([sweep])
    with pytest.raises(NotARun, match=r"b.run.json is not JSON"):
        discover([sweep / "b"], said.append)
    (sweep / "a" / "run.json").unlink()
    with pytest.raises(NotARun, match=r"b.run.json is not JSON"):
        discover([sweep], said.append)


def test_discover_refuses_a_path_without_runs(tmp_path):
    with pytest.raises(NotARun, match="holds none"):
        discover([tmp_path])
    with pytest.raises(NotARun, match="does not exist"):
        discover([tmp_path / "nowhere"])


def test_labels_are_distinct(make_run):
    paths = [
        make_run("a", name="same"),
        make_run("b", name="same"),
        make_run("c", name="own"),
        make_run("x/a", name="same"),
    ]
    found = labels([RunFolder(path) for path in paths])
    assert found == ["same (a)", "same (b)", "own", "same (a) #2"]
