"""`shoal optim`: listed is what there is, shown what the classes say, and left behind what was compared."""

from __future__ import annotations

import inspect
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from shoal.learning import Comparison
from shoal.optim.wrapping import Wrapper
from shoal.optimizers import AROUND_MODELS, OPTIMIZERS, WRAPPERS
from shoal.papers.catalogue import publications
from shoal.simulation import simulate
from tests.optim.catalogue import given, optimizers

# -- the table -------------------------------------------------------------------------------------------------


def test_every_optimizer_is_listed_and_nothing_else() -> None:
    assert {method.cls() for method in OPTIMIZERS.values()} == set(optimizers().values())
    named = {name.replace("-", "") for name in WRAPPERS}
    assert {name.lower() for name in (cls.__name__ for cls in Wrapper.__subclasses__())} == named - {"ttur"}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizers_name_is_its_classs(name: str) -> None:
    assert name.replace("-", "") == OPTIMIZERS[name].cls().__name__.lower()


@pytest.mark.parametrize("shape", [(640, 512), (200, 900)], ids=str)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_state_bytes_are_those_measured(name: str, shape: tuple[int, int]) -> None:
    method = OPTIMIZERS[name]
    cls = method.cls()
    needed = {k: 10 for k, default in cls.arguments.items() if default is inspect.Parameter.empty and k != "lr"}
    p = nn.Parameter(torch.zeros(shape))
    optimizer = cls([("mlp.weight", p)], lr=0.01, **needed)
    p.grad = torch.ones(shape)
    names = [name for plan in optimizer._all_plans() for name in plan.given]
    further = {"given": given(names, [p.grad])} if names else {}
    optimizer.step(**({"loss": 1.0} if optimizer.needs_loss else {}), **further)
    assert optimizer.state_bytes() == pytest.approx(method.state(*shape), rel=0.02)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_papers_are_in_the_catalogue_and_named_where_there_is_one(name: str) -> None:
    slugs = {publication.slug for publication in publications()}
    assert OPTIMIZERS[name].paper in slugs | {""}
    if name in slugs:
        assert OPTIMIZERS[name].paper == name


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_needs_are_named_where_arguments_have_no_default(name: str) -> None:
    method = OPTIMIZERS[name]
    missing = {k for k, default in method.cls().arguments.items() if default is inspect.Parameter.empty}
    assert method.lr is not None or "lr" not in missing
    for argument in missing - {"lr"}:
        assert argument in method.needs


# -- list and show ---------------------------------------------------------------------------------------------


def test_the_list_has_a_line_for_each(shoal) -> None:
    lines = shoal("optim").out.splitlines()
    for name, method in OPTIMIZERS.items():
        (line,) = [line for line in lines if line.split(" ")[0] == name]
        assert float(line.split()[1]) == pytest.approx(method.bytes_per_parameter, rel=0.05)
        assert method.help in line
        assert method.needs in line
        assert method.paper in line
    for name, entry in {**WRAPPERS, **AROUND_MODELS}.items():
        (line,) = [line for line in lines if line.split(" ")[0] == name]
        assert all(word in line for word in (entry.help, entry.needs, f"[{entry.paper}]"))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_show_has_every_argument_with_its_default_and_meaning(shoal, monkeypatch, name) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    shown = shoal("optim", "show", name.upper())
    assert shown.code == 0
    cls = OPTIMIZERS[name].cls()
    lines = {line.split()[0]: line for line in shown.out.splitlines() if line.strip()}
    for argument, default in cls.arguments.items():
        if argument not in ("maximize", "compile"):
            text = "needed" if default is inspect.Parameter.empty else repr(default)
            assert text in lines[argument]
            if argument in cls.about:
                assert cls.about[argument].help in lines[argument]
    assert inspect.getmodule(cls).__doc__.splitlines()[0] in shown.out


@pytest.mark.parametrize("name", [*WRAPPERS, *AROUND_MODELS])
def test_show_explains_what_goes_around_with_its_arguments_needs_and_paper(shoal, monkeypatch, name) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    shown = shoal("optim", "show", name.upper())
    assert shown.code == 0
    entry = {**WRAPPERS, **AROUND_MODELS}[name]
    module = inspect.getmodule(entry.load())
    assert entry.help in shown.out.splitlines()[0]
    assert module.__doc__.splitlines()[0] in shown.out
    assert f"publication: {entry.paper} " in shown.out
    assert not entry.needs or f"needs {entry.needs}\n" in shown.out
    called = {word.lower(): thing for word, thing in vars(module).items() if inspect.isclass(thing)}
    lines = {line.split()[0]: line for line in shown.out.splitlines() if line.strip()}
    for thing in (called.get(name.replace("-", ""), entry.load()), entry.load()):
        for argument, parameter in list(inspect.signature(thing).parameters.items())[1:]:
            assert len(lines[argument].split()) > 2  # a meaning, too
            if parameter.default is not parameter.empty:
                assert repr(parameter.default) in lines[argument]


def test_show_keeps_names_of_arguments_whole_at_80_columns(shoal) -> None:
    lines = shoal("optim", "show", "shampoo").out.splitlines()
    table = lines[lines.index("arguments") :]
    assert {line.split()[0] for line in table if line[:1].isalnum()} > {"precondition_frequency", "max_precond_dim"}
    assert max(map(len, table[: table.index("")])) <= 80


def test_show_says_why_a_wrapper_stands_before_no_name(shoal) -> None:
    out = " ".join(shoal("optim", "show", "nino").out.split())
    assert re.search(r"not in names, as in nino\+sgd: .* forecasts whole models", out)
    assert "as in ttur+sgd" in shoal("optim", "show", "ttur").out


def test_show_has_the_chain_of_a_matrix_and_of_a_vector(shoal) -> None:
    out = shoal("optim", "show", "adam-mini").out
    assert "of a matrix: BlockScaling(" in out
    assert "of a vector: AdamScaling(" in out
    assert "DecoupledDecay(lam=0.01) -> AdamScaling(" in shoal("optim", "show", "AdamW").out


# -- compare ---------------------------------------------------------------------------------------------------

QUICK = ("--task", "digits", "--steps", 12, "--seeds", 2, "--workers", 1)


def comparison(folder: Path) -> Comparison:
    return Comparison.from_json((folder / "comparison.json").read_text())


def test_a_comparison_leaves_numbers_a_plot_and_a_page(shoal, tmp_path) -> None:
    words = ("AdamW", "Lion:weight_decay=0.1", "cautious+adopt", "--rates", "1e-3,1e-2,1e-1", "--no-extend")
    outcome = shoal("optim", "compare", *words, *QUICK, "--out", "here")
    assert outcome.code == 0
    assert outcome.value("report") == ["here/report.html"]
    found = comparison(tmp_path / "here")
    assert found.finished
    assert [entry.name for entry in found.entries] == ["adamw", "lion:weight_decay=0.1", "cautious+adopt"]
    assert [[trial.lr for trial in entry.trials] for entry in found.entries] == [[1e-3, 1e-2, 1e-1]] * 3
    assert found["lion:weight_decay=0.1"].settings == {"weight_decay": 0.1}
    table = [line.split()[0] for line in outcome.out.splitlines() if line.split()[0] in {e.name for e in found.entries}]
    assert table == [entry.name for entry in found.ranked()]
    assert max(map(len, outcome.out.splitlines())) <= 80
    assert {path.name for path in (tmp_path / "here").iterdir()} == {"comparison.json", "plot.png", "report.html"}
    assert (tmp_path / "here" / "plot.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "here" / "report.html").read_text()
    assert all(entry.name in page for entry in found.entries)
    assert not re.search(r"(src|href)=\"(?!#)", page)  # nothing is fetched


def test_the_same_words_leave_the_same_bytes_and_a_report_can_be_written_again(shoal, tmp_path) -> None:
    words = ("sgd", "adam", "--rates", "1e-2,1e-1", *QUICK)
    for out in ("one", "two"):
        shoal("optim", "compare", *words, "--out", out)
    first = {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir()}
    assert {path.name: path.read_bytes() for path in (tmp_path / "two").iterdir()} == first
    again = shoal("optim", "compare", "sgd", "--rates", "0.1", *QUICK, "--out", "one")
    assert again.value("comparison") == ["one-2"]
    assert {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir()} == first
    (tmp_path / "two" / "report.html").unlink()
    assert shoal("optim", "report", "two").code == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "two").iterdir()} == first


def test_rates_are_looked_for_around_each_ones_own(shoal, tmp_path) -> None:
    shoal("optim", "compare", "adamw", "lion:1e-2", "lars", *QUICK, "--no-extend")
    middle = {entry.name: entry.trials[3].lr for entry in comparison(tmp_path / "comparison").entries}
    assert middle == {"adamw": 1e-3, "lion": 1e-2, "lars": OPTIMIZERS["lars"].lr}
    assert {len(entry.trials) for entry in comparison(tmp_path / "comparison").entries} == {7}


def test_the_number_of_steps_and_the_schedule_are_handed_on(shoal, tmp_path) -> None:
    words = ("ranger21", "adam", "--rates", "1e-2", "--schedule", "linear", "--warmup", 0.25)
    shoal("optim", "compare", *words, *QUICK)
    found = comparison(tmp_path / "comparison")
    assert found["ranger21"].settings == {"t_max": 12}
    assert found.schedule == "warmup_polynomial(warmup_steps=3)"


NEVER = [
    (["AdamWW"], "optimizer: 'AdamWW' is unknown; did you mean 'adamw'?"),
    (["lookahead"], "optimizer: 'lookahead' goes around another one, as in lookahead+adamw"),
    (["cautios+adam"], "optimizer: 'cautios' is no wrapper; did you mean 'cautious'?"),
    (
        ["adamw:decay=1"],
        "optimizer: adamw:decay=1: AdamW: got an unexpected keyword argument 'decay'; arguments are lr",
    ),
    (["adamw:eps=-1"], "optimizer: adamw:eps=-1: eps: got -1; a finite number >= 0 is allowed"),
    (["adamw:x"], "optimizer: adamw:x: lr: got 'x'; a finite number >= 0 is allowed"),
    (["cautious+badam"], "optimizer: cautious+badam: BAdam freezes parameters of one model"),
    (["adamw", "AdamW"], "optimizers: one is given twice"),
    (["adamw:1e-3", "--rates", "1e-3"], "rates: adamw:1e-3 gives a learning rate of its own"),
    (["adamw", "--rates", "1e-3,x"], "rates: got '1e-3,x'; numbers with commas between them, or auto, are allowed"),
    (["adamw", "--rates", "-1"], "rates: got -1.0; finite numbers above 0 are allowed"),
    (["adamw", "--task", "digit"], "task: 'digit' is unknown; did you mean 'digits'?"),
    (["adamw", "--model", "mpl"], "model: 'mpl' is unknown; did you mean 'mlp'?"),
    (["adamw", "--schedule", "cos"], "schedule: got 'cos'; did you mean 'cosine'?"),
    (["adamw", "--warmup", 1.5], "warmup: got 1.5; a share in [0, 1) is allowed"),
    (["adamw", "--seeds", 0], "seeds: got 0; 1 to 1000 is allowed"),
    (["adamw", "--steps", 0], "steps: got 0; a whole number >= 1 is allowed"),
    (["adamw", "--batch", -1], "batch: got -1; a whole number >= 1 is allowed"),
    (["adamw", "--metric", "acc"], "metric: got 'acc'; allowed are loss, accuracy"),
    (["adamw", "--device", "tpu"], "device: got 'tpu'; cpu, or a device of this machine, is allowed"),
    (["adamw", "--validation", 2], "validation: got 2.0; a share in (0, 1)"),
    (["adam-mini", "--task", "text"], "contenders: adam-mini: dim: got None; "),
    (["adamw", "--steps", "x"], "--steps: got 'x'"),
    ([], "missing argument 'optimizers"),
]


@pytest.mark.parametrize(("words", "message"), NEVER, ids=[" ".join(map(str, words)) for words, _ in NEVER])
def test_an_impossible_comparison_says_why_in_one_line_and_leaves_nothing(shoal, tmp_path, words, message) -> None:
    assert shoal("optim", "compare", *QUICK, *words).complaint.startswith(message)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["show", "lyon"], "optimizer: 'lyon' is unknown; did you mean 'lion'?"),
        (["show", "cautious+lion"], "optimizer: 'cautious+lion' is made of several; show one, such as lion"),
        (["report", "nowhere"], "nowhere: No such file"),
        (["report", "torn.json"], "torn.json: not a comparison: "),
        (["sho"], "no such command 'sho'"),
    ],
)
def test_other_commands_say_in_one_line_what_is_wrong(shoal, tmp_path, words, message) -> None:
    (tmp_path / "torn.json").write_text('{"task": ')
    assert shoal("optim", *words).complaint.startswith(message)


def test_a_folder_that_cannot_be_written_is_named(shoal, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    outcome = shoal("optim", "compare", "sgd", "--rates", "0.1", *QUICK, "--out", "file/x")
    assert outcome.code == 2
    assert outcome.err.splitlines()[-1].startswith("shoal: out: cannot write file/x: ")


# The process signals itself while its display is called, in the middle of the comparison.
SCRIPT = """
import os, signal, sys
from shoal.cli import comparing, main

number, show = getattr(signal, sys.argv.pop(1)), comparing._Lines.__call__

def signalling(self, state):
    show(self, state)
    if state.stage == "testing" and state.contender == "adam":
        comparing._Lines.__call__ = show
        os.kill(os.getpid(), number)

comparing._Lines.__call__ = signalling
main()
"""


def interrupted(folder: Path, name: str) -> subprocess.CompletedProcess[str]:
    words = ["optim", "compare", "sgd", "adam", "--rates", "1e-2,1e-1", *map(str, QUICK)]
    environment = {**os.environ, "COLUMNS": "80", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SCRIPT, name, *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_ctrl_c_leaves_a_usable_folder(tmp_path, shoal) -> None:
    ended = interrupted(tmp_path, "SIGINT")
    assert ended.returncode == 130
    assert ended.stderr.splitlines()[-1] == "shoal: interrupted"
    assert "Traceback" not in ended.stderr
    assert "comparison: comparison (interrupted)" in ended.stdout.splitlines()
    found = comparison(tmp_path / "comparison")
    assert not found.finished
    assert len(found["sgd"].tests) == 2
    assert found["adam"].tests == ()
    assert found["adam"].best is not None
    assert "interrupted" in (tmp_path / "comparison" / "report.html").read_text()
    assert shoal("optim", "report", "comparison").code == 0


def test_a_killed_comparison_leaves_what_was_done(tmp_path, shoal) -> None:
    ended = interrupted(tmp_path, "SIGKILL")
    assert ended.returncode == -signal.SIGKILL
    assert {path.name for path in (tmp_path / "comparison").iterdir()} == {"comparison.json"}
    assert len(comparison(tmp_path / "comparison")["sgd"].tests) == 2
    assert shoal("optim", "report", "comparison").code == 0


# -- elsewhere -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lion:1e-2", "Lion:lr=1e-2", "adam-mini:0.01", "lookahead+sgd:0.1", "AMSBound"])
def test_peers_train_with_optimizers_by_name(name: str) -> None:
    settings = {"task": "digits", "peers": 3, "rounds": 3, "eval_samples": 50, "workers": 1}
    start, run = (simulate(f"isolated:steps={steps}", optimizer=name, **settings) for steps in (0, 5))
    assert run.info["config"]["optimizer"] == name
    assert all(torch.isfinite(model).all() for model in run.models.values())
    assert not any(torch.equal(model, start.models[i]) for i, model in run.models.items())


def test_a_rate_of_its_own_reaches_an_optimizer_that_has_none(small, tmp_path) -> None:
    assert small("isolated:steps=1", "--optimizer", "lars", "--lr", 3.0).code == 0
    assert json.loads((tmp_path / "runs" / "isolated-001" / "run.json").read_text())["config"]["lr"] == 3.0


def test_what_trains_no_peers_is_refused(small, tmp_path) -> None:
    assert small("isolated", "--optimizer", "badam").complaint.startswith("optimizer: badam: BAdam freezes parameters")
    assert small("isolated", "--optimizer", "ranger21").complaint.startswith(
        "optimizer: ranger21: Ranger21: missing a required argument: 't_max'"
    )
    assert list(tmp_path.iterdir()) == []
