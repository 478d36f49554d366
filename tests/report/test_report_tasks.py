"""Runs on different tasks are shown side by side, and not ranked; links that change are said to."""

from shoal.report import RunFolder, tasks, write_report
from tests.report.conftest import synthetic_run


def page(tmp_path, *names):
    folders = [synthetic_run(tmp_path / f"r{i}", seed=i, config={"task": name}) for i, name in enumerate(names)]
    return write_report([RunFolder(folder) for folder in folders], tmp_path / "page.html").read_text(encoding="utf-8")


def test_runs_on_one_task_are_ranked(tmp_path):
    text = page(tmp_path, "digits", "digits")
    assert all(said in text for said in ("Best final accuracy", "Cost of reaching", "Result against cost"))


def test_runs_on_different_tasks_are_not(tmp_path):
    text = page(tmp_path, "digits", "quadratic")
    assert "Runs on different tasks (digits, quadratic), whose scores are not to be compared." in text
    assert not any(said in text for said in ("Best final", "Cost of reaching", "Result against cost"))


def test_a_run_that_does_not_say_its_task_is_taken_to_be_of_the_others(tmp_path):
    runs = [RunFolder(synthetic_run(tmp_path / "a")), RunFolder(synthetic_run(tmp_path / "b", config={"task": "x"}))]
    assert tasks(runs) == ["x"]


def test_links_that_change_are_said_to(tmp_path):
    edges = [[0, 1], [1, 0]]
    for period in (1, 5):
        topology = {"peers": 2, "edges": edges, "directed": False, "spectral_gap": 0.5, "period": period}
        folder = RunFolder(synthetic_run(tmp_path / f"p{period}", peers=2, topology=topology))
        text = write_report([folder], tmp_path / "page.html").read_text(encoding="utf-8")
        assert ("links change, with a period of 5" in text) == (period == 5)
