"""What the documentation shows as Python runs, from the top of a page to its end."""

import re
from pathlib import Path

import pytest
import torch

DOCS = Path(__file__).parent.parent / "docs"


@pytest.mark.parametrize(
    ("page", "least", "said"),
    [
        ("optimizers.md", 6, "±"),
        ("compression.md", 3, "times smaller"),
        ("instruments.md", 3, "noise scale"),
        ("gans.md", 4, "FID"),
        ("lenses.md", 3, "True"),
        ("own-model.md", 4, "accuracy 0.9"),
        ("write-a-protocol.md", 8, "0.93"),
        ("../README.md", 3, "0.9"),
    ],
)
def test_the_code_of_a_page_runs(page, least, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```$", (DOCS / page).read_text(encoding="utf-8"), re.M | re.S)
    assert len(blocks) >= least
    scope: dict[str, object] = {}
    if page == "../README.md":  # which speaks of a training loop of the reader's own
        scope = {"model": torch.nn.Linear(4, 4), "inputs": torch.zeros(2, 4)}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for block in blocks:
            exec(compile(block, page, "exec"), scope)
    assert said in capsys.readouterr().out
