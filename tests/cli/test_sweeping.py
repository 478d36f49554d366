"""`shoal run --sweep`: all combinations, refused as a whole before anything runs."""

from __future__ import annotations

import pytest

from shoal.cli.sweeping import variants

SMALL = ("--task", "digits", "--peers", 3, "--rounds", 2)


def test_all_combinations_are_run_the_last_changing_fastest() -> None:
    arms = variants("a", {"peers": 3}, ["codec=none fp16", "network=lan wan mobile"])
    settings = [arm for _, arm in arms]
    assert [(s["codec"], s["network"]) for s in settings] == [
        (codec, network) for codec in (None, "fp16") for network in ("lan", "wan", "mobile")
    ]
    assert all(s["peers"] == 3 for s in settings)
    assert len({name for name, _ in arms}) == 6


def test_protocols_are_swept_by_their_own_names() -> None:
    arms = variants(None, {"protocol": "gossip"}, ["protocol=fedavg:steps=2 isolated"])
    assert [name for name, _ in arms] == ["fedavg:steps=2", "isolated"]


def test_without_a_sweep_there_is_the_experiment_alone() -> None:
    assert variants(None, {"peers": 2}, []) == [(None, {"peers": 2})]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("codec",), "sweep: got 'codec'"),
        (("codec=",), "sweep: got 'codec='"),
        (("codecs=none",), "sweep: 'codecs' is not a setting; did you mean 'codec'?"),
        (("codec=none", "codec=fp16"), "sweep: codec is given twice"),
        (("peers=3 4",), "sweep: peers is given twice"),
        (("codec=fp16 fp16",), "sweep: codec has a value twice"),
        (("seed=" + " ".join(map(str, range(1001))),), "sweep: got 1001 runs"),
        (
            ("codec=fp16 ef+fp16",),
            "gossip-ef+fp16: codec: ef+fp16 is for an update or a gradient; gossip-ef+fp16 packs",
        ),
        (("codec=fp16 fq16",), "gossip-fq16: codec: 'fq16' is unknown; did you mean 'fp16'?"),
    ],
)
def test_an_impossible_sweep_says_why_and_leaves_nothing(shoal, tmp_path, words, message) -> None:
    sweeps = [part for word in words for part in ("--sweep", word)]
    assert shoal("run", "gossip", *SMALL, *sweeps, "--out", tmp_path / "runs").complaint.startswith(message)
    assert not (tmp_path / "runs").exists()


def test_a_sweep_ends_with_one_report_of_all_runs(shoal, tmp_path) -> None:
    done = shoal("run", "fedavg:steps=1", *SMALL, "--sweep", "codec=none bf16", "--out", tmp_path)
    assert done.code == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fedavg-bf16-001", "fedavg-none-001", "report.html"]
    page = (tmp_path / "report.html").read_text()
    assert "Result against cost" in page
    assert "not beaten for its bytes" in page
