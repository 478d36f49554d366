"""Runs by options and by file, and what is done with them afterwards."""

import csv
import inspect
import shutil
import sys

import pytest

from shoal import __version__, names
from shoal.cli import app
from shoal.papers import ledger
from shoal.papers.catalogue import publications
from shoal.papers.result import Finding, Result
from shoal.report import RunFolder
from shoal.simulation import Settings, simulate, tasks


def facts(path):
    return RunFolder(path).facts


def same(one, other):
    """Two run folders hold the same measurements and models."""
    return all(
        (one / file).read_bytes() == (other / file).read_bytes() for file in ("metrics.csv", "model.safetensors")
    )


def test_a_run_leaves_a_folder_a_report_and_a_table(small, tmp_path):
    outcome = small("gossip")
    assert outcome.code == 0
    assert outcome.value("run") == ["runs/gossip-001"]
    assert outcome.value("report") == ["runs/gossip-001/report.html"]
    names = {path.name for path in (tmp_path / "runs" / "gossip-001").iterdir()}
    assert names == {"run.json", "metrics.csv", "model.safetensors", "log.jsonl", "report.html"}
    assert "finished" in outcome.out
    assert small("gossip").value("run") == ["runs/gossip-002"]


def test_the_same_settings_from_a_file_give_the_same_run(small, shoal, tmp_path):
    options = ["--partition", "dirichlet:0.3", "--network", "mobile", "--faults", "random:0.5", "--seed", 3, "--trace"]
    small("gossip:steps=2", *options)
    (tmp_path / "same.toml").write_text(
        'protocol = "gossip:steps=2"\ntask = "digits"\npeers = 4\nrounds = 2\neval-samples = 50\n'
        'partition = "dirichlet:0.3"\nnetwork = "mobile"\nfaults = "random:0.5"\nseed = 3\ntrace = true\n'
    )
    assert shoal("run", "same.toml").value("run") == ["runs/gossip-002"]
    one, other = tmp_path / "runs" / "gossip-001", tmp_path / "runs" / "gossip-002"
    assert same(one, other)
    assert (one / "trace.jsonl").read_bytes() == (other / "trace.jsonl").read_bytes()
    assert facts(one).config == facts(other).config


def test_options_override_the_file(shoal, tmp_path):
    (tmp_path / "a.toml").write_text(
        'protocol = "isolated:steps=1"\ntask = "digits"\npeers = 3\nrounds = 9\nbatched = false\n'
        'name = "filed"\nout = "elsewhere"\n'
    )
    by_file = shoal("run", "a.toml", "--rounds", 1)
    assert by_file.value("run") == ["elsewhere/filed-001"]
    read = facts(tmp_path / "elsewhere" / "filed-001")
    assert (read.name, read.peers, read.rounds, read.config["batched"]) == ("filed", 3, 1, False)
    overridden = shoal("run", "a.toml", "--rounds", 0, "--name", "given", "--out", "runs", "--batched", "-n", 2)
    assert overridden.value("run") == ["runs/given-001"]
    read = facts(tmp_path / "runs" / "given-001")
    assert (read.name, read.peers, read.rounds, read.config["batched"]) == ("given", 2, 0, True)


def test_every_option_of_run_but_name_out_sweep_and_its_place_is_a_setting():
    others = {"name", "out", "sweep", "on", "ray", "hosts", "gpus_per_host"}
    assert set(inspect.signature(app.run).parameters) - others == set(Settings.model_fields)


def test_a_topology_from_a_file(small, tmp_path):
    (tmp_path / "chain.txt").write_text("0 1\n1 2\n2 3\n")
    small("gossip:steps=1", "--topology", "file:chain.txt")
    topology = facts(tmp_path / "runs" / "gossip-001").topology
    assert topology.edges == [[0, 1], [1, 2], [2, 3]]


def test_the_demo_runs_three_ways_side_by_side(shoal, tmp_path, monkeypatch):
    monkeypatch.setattr("shoal.simulation.tasks.fashion_mnist", tasks.digits)
    outcome = shoal("demo", "--peers", 4, "--rounds", 1)
    assert outcome.value("run") == ["runs/gossip-001", "runs/fedavg-001", "runs/alone-001"]
    assert outcome.value("report") == ["runs/report.html"]
    runs = [facts(tmp_path / path) for path in outcome.value("run")]
    assert [run.status for run in runs] == ["finished"] * 3
    assert len({str(run.data.shards) for run in runs}) == 1
    assert len({run.config["network"] for run in runs}) == 1
    page = (tmp_path / "runs" / "report.html").read_text()
    assert all(name in page for name in ("gossip", "fedavg", "alone"))


# -- afterwards ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two runs, made once."""
    out = tmp_path_factory.mktemp("made")
    common = {"task": "digits", "peers": 4, "rounds": 2, "eval_samples": 50, "out": out}
    simulate("gossip:steps=1", **common)
    simulate("isolated:steps=1", seed=1, **common)
    return out


@pytest.fixture
def two(made, tmp_path):
    """A copy of them."""
    shutil.copytree(made, tmp_path / "runs")


@pytest.mark.usefixtures("two")
def test_compare_shows_a_line_for_each_run(shoal):
    outcome = shoal("compare", "runs")
    assert outcome.code == 0
    assert [line.split()[0] for line in outcome.out.splitlines()[-2:]] == ["gossip", "isolated"]
    assert outcome.out == shoal("compare", "runs/gossip-001", "runs/isolated-001").out


@pytest.mark.usefixtures("two")
def test_the_table_fits_80_columns_without_breaking_a_number(shoal):
    lines = shoal("compare", "runs", "runs").out.splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) == 4  # two of headings, one a run
    assert all("finished" in line and " ± " in line for line in lines[2:])


@pytest.mark.usefixtures("two")
def test_reports_are_written_where_they_are_asked_for(shoal, tmp_path):
    assert shoal("report", "runs").value("report") == ["report.html"]
    assert shoal("compare", "runs", "--out", "pages/both.html").value("report") == ["pages/both.html"]
    assert (tmp_path / "report.html").read_bytes() == (tmp_path / "pages" / "both.html").read_bytes()


@pytest.mark.usefixtures("two")
def test_exports_hold_the_same_numbers(shoal, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    run = tmp_path / "runs" / "gossip-001"
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    written = shoal("export", "runs/gossip-001").value("written")
    assert written == ["runs/gossip-001/export.csv"]
    with (tmp_path / written[0]).open() as file:
        exported = list(csv.DictReader(file))
    assert [{**row, "run": "gossip"} for row in rows] == exported
    written = shoal("export", "runs/gossip-001", "--to", "parquet", "--out", "deep/x.parquet").value("written")
    table = parquet.read_table(tmp_path / written[0]).to_pylist()
    assert [row["value"] for row in table] == [float(row["value"]) for row in rows]
    assert [(row["peer"], row["metric"]) for row in table] == [(int(row["peer"]), row["metric"]) for row in rows]


@pytest.mark.usefixtures("two")
def test_export_to_tensorboard(shoal, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    written = shoal("export", "runs/gossip-001", "--to", "tensorboard").value("written")
    events = accumulator.EventAccumulator(str(tmp_path / written[0]))
    events.Reload()
    scalars = events.Scalars("accuracy/mean")
    assert [scalar.step for scalar in scalars] == [0, 1, 2]
    metrics = RunFolder(tmp_path / "runs" / "gossip-001").metrics.of("accuracy").peers
    last = metrics.where(metrics.round == 2)
    assert scalars[-1].value == pytest.approx(last.value.mean(), rel=1e-5)


# -- lists ---------------------------------------------------------------------------------------------------


def test_list_names_everything_with_its_arguments(shoal):
    everything = shoal("list").out
    for kind, table in names.KINDS.items():
        own = shoal("list", kind).out
        assert own in everything
        assert own.splitlines()[0] == kind
        assert [line.split()[0].split(":")[0] for line in own.splitlines()[1:]] == list(table)
    assert "watts-strogatz:k,p" in everything


def test_papers_lists_all_or_those_that_are_chosen(shoal):
    everything = shoal("papers").out
    assert all(f"{p.number:03d}" in everything for p in publications())
    federated = [p for p in publications() if p.kind == "federated"]
    chosen = shoal("papers", "--kind", "federated").out
    assert [line[:3] for line in chosen.splitlines() if line[:3].isdigit()] == [f"{p.number:03d}" for p in federated]


@pytest.fixture
def claim(monkeypatch, tmp_path):
    """A publication that is reproduced at once, and a ledger of its own."""

    def claim(scale):
        findings = [Finding("x at most 1", f"{0.5} at {scale}", True), Finding("y above 2", "1.9", False)]
        return Result(findings, {"x": 0.5}, {"x": 0.6}, seeds=(1, 2), note="too short for y")

    def claim_of(publication):
        return claim if publication.slug == "fedavg" else None

    monkeypatch.setattr(ledger, "claim_of", claim_of)
    monkeypatch.setattr(ledger, "RESULTS", tmp_path / "results")


@pytest.mark.usefixtures("claim")
@pytest.mark.parametrize("which", ["fedavg", "7", "007", "1602.05629", "--all"])
def test_reproduce_shows_findings_and_verdict(shoal, which):
    outcome = shoal("reproduce", which)
    assert outcome.code == 0
    assert "x at most 1" in outcome.out
    assert "0.5 at check" in outcome.out
    assert "published: x: 0.6" in outcome.out
    assert "verdict at scale check: partly 1/2 in " in outcome.out
    assert "note: too short for y" in outcome.out


@pytest.mark.usefixtures("claim")
def test_a_stored_verdict_shows_in_the_ledger(shoal, tmp_path):
    assert shoal("reproduce", "fedavg", "--scale", "full", "--store").code == 0
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["fedavg.json"]
    *_, row, total = shoal("papers", "--state", "partly").out.splitlines()
    assert row.split()[-2:] == ["partly", "1/2"]
    assert total == "1 partly"
    assert "stored full run: partly 1/2" in shoal("reproduce", "fedavg").out


@pytest.mark.usefixtures("claim")
def test_what_is_not_reproduced_yet_is_told_so(shoal):
    assert shoal("reproduce", "fedau").complaint.startswith("fedau is not reproduced yet")


# -- help ----------------------------------------------------------------------------------------------------


def test_without_a_command_there_is_help(shoal):
    outcome = shoal()
    assert outcome.code == 0
    for command in ("run", "up", "join", "key", "demo", "compare", "report", "export", "list", "papers", "reproduce"):
        assert f" {command} " in outcome.out
    assert outcome.err == ""


def test_the_help_of_run_shows_the_defaults(shoal, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    text = shoal("run", "--help").out
    for name, field in Settings.model_fields.items():
        if isinstance(field.default, str) and name != "protocol":
            shown = "the topology's own" if name == "weights" else field.default
            assert f"(default: {shown})" in text
    assert all(f"(default: {number})" in text for number in (32, 50, 2000, 64))


def test_the_version(shoal):
    assert shoal("--version").out == f"shoal {__version__}\n"


def test_a_place_that_is_unknown_is_refused_with_the_closest_one(shoal):
    assert shoal("run", "gossip", "--on", "torhc").complaint == "on: 'torhc' is unknown; did you mean 'torch'?"
    assert shoal("run", "gossip", "--on", "torch:1,2").complaint.startswith("on: 'torch:1,2' has an unexpected value")


def test_options_of_a_cluster_are_refused_elsewhere_and_twice(shoal):
    assert shoal("run", "gossip", "--hosts", 2).complaint == "hosts: means something with --on ray only"
    assert shoal("run", "gossip", "--ray", "auto").complaint == "ray: means something with --on ray only"
    assert shoal("run", "gossip", "--on", "ray:2", "--hosts", 2).complaint == "hosts: is given twice"
    complaint = shoal("run", "gossip", "--on", "ray:hosts=some").complaint
    assert complaint == "on: ray: hosts: got 'some'; a whole number or none is allowed"


def test_without_ray_it_is_said_how_to_get_it(small, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    for option in (("--on", "ray"), ("--compute", "ray:2")):
        assert "pip install 'shoal[ray]'" in small("gossip", *option).complaint
