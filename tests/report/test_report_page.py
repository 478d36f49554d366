"""The report page: self-contained, deterministic, complete, and safe with what runs call themselves."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from shoal.report import RunFolder, compare, page, write_report


class Reader(HTMLParser):
    """Collects tags with their attributes, and the text outside of <style>."""

    VOID = frozenset({"meta", "link", "br", "img", "input"})

    def __init__(self):
        super().__init__()
        self.tags, self.words, self.open = [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def report(tmp_path, *paths):
    html = write_report([RunFolder(path) for path in paths], tmp_path / "report.html").read_text()
    reader = Reader()
    reader.feed(html.replace("<wbr>", ""))
    assert reader.open == []
    return html, reader


def test_every_run_appears_with_all_its_figures(make_run, tmp_path):
    paths = [make_run(f"run-{i}", seed=i, status=("finished", "interrupted")[i % 2]) for i in range(3)]
    _, reader = report(tmp_path, *paths)
    for row in compare([RunFolder(path) for path in paths]):
        assert all(cell in reader.text for cell in row.cells)
    assert "run-1 did not come to its end" in reader.text
    assert "run-0 did not come to its end" not in reader.text
    # Accuracy and loss over three axes, the spread, cost in bytes and time, and topology and partition of each run.
    assert len([svg for svg in reader.all("svg") if svg.get("role") == "img"]) == 2 * 3 + 1 + 2 + 2 * 3


def test_nothing_is_loaded_from_elsewhere(make_run, tmp_path):
    html, reader = report(tmp_path, make_run("a", average=True), make_run("b", graph="random"))
    assert not re.search(r"(https?:)?//[a-z]", html)
    assert not {"script", "link", "iframe", "object", "embed", "base"} & {tag for tag, _ in reader.tags}
    for _, attributes in reader.tags:
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:"))
    assert "url(" not in html.replace("url(#", "")
    assert any("default-src 'none'" in (meta.get("content") or "") for meta in reader.all("meta"))


def test_the_same_runs_give_the_same_bytes(make_run, tmp_path):
    runs = [RunFolder(make_run("a", graph="random", peers=20)), RunFolder(make_run("b", asynchronous=True))]
    first = write_report(runs, tmp_path / "first.html").read_bytes()
    again = [RunFolder(run.path) for run in runs]
    assert write_report(again, tmp_path / "second.html").read_bytes() == first


def test_the_users_matplotlib_style_neither_matters_nor_changes(make_run, tmp_path):
    import matplotlib

    run = RunFolder(make_run())
    plain = write_report([run], tmp_path / "plain.html").read_bytes()
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "svg.fonttype": "path"}):
        assert write_report([run], tmp_path / "styled.html").read_bytes() == plain
        assert matplotlib.rcParams["font.size"] == 30


HOSTILE = "<script>alert('x')</script>&\"{{ 7 * 7 }} $\\alpha$ </svg>"


def test_names_and_texts_are_shown_not_interpreted(make_run, tmp_path):
    path = make_run(
        "a",
        name=HOSTILE,
        protocol=HOSTILE,
        status=HOSTILE,
        error=HOSTILE,
        metrics=(HOSTILE.replace(",", ""), "accuracy"),
        config={HOSTILE: HOSTILE},
        compute=[{"kernel": HOSTILE, "path": HOSTILE, "why": HOSTILE}],
        bytes={"total": 1, "channels": {HOSTILE: {"sent": 1}}},
    )
    other = make_run("b", config={HOSTILE: 1})
    html, reader = report(tmp_path, path, other)
    assert "script" not in {tag for tag, _ in reader.tags}
    assert "<script" not in html
    assert HOSTILE in reader.text


def test_names_may_be_broken_behind_the_signs_between_their_parts_and_nowhere_else():
    name = "sgd:momentum=0.9,nesterov=True,weight_decay=1,000 cautious+<b>"
    assert str(page.parts(name)) == (
        "sgd:<wbr>momentum=0.9,<wbr>nesterov=True,<wbr>weight_<wbr>decay=1,000 cautious+&lt;b&gt;"
    )


def test_a_hostile_metric_is_text_in_the_figures_too(make_run, tmp_path):
    html, _ = report(tmp_path, make_run("a", metrics=("$\\frac{$ <script>",)))
    assert "<script" not in html


def test_figures_are_described(make_run, tmp_path):
    _, reader = report(tmp_path, make_run("digits", summary=...))
    labels = [svg["aria-label"] for svg in reader.all("svg") if svg.get("role") == "img"]
    assert all(labels)
    assert any(label.startswith("accuracy against virtual time: digits ends at ") for label in labels)
    assert any(label.startswith("topology: 8 peers") for label in labels)
    assert all(svg.get("aria-hidden") == "true" for svg in reader.all("svg") if "role" not in svg)


def test_ids_are_unique_and_links_lead_somewhere(make_run, tmp_path):
    html, reader = report(tmp_path, make_run("a"), make_run("b"))
    anchors = [attributes["id"] for tag, attributes in reader.tags if (attributes.get("id") or "").startswith("run-")]
    assert anchors == ["run-1", "run-2"]
    assert {link["href"] for link in reader.all("a")} == {"#run-1", "#run-2"}
    assert set(re.findall(r"url\(#([^)]*)\)", html)) <= {a.get("id") for _, a in reader.tags}


def test_a_bare_run_is_reported(tmp_path):
    (tmp_path / "run.json").write_text('{"format": 1, "protocol": "p", "peers": 2, "status": "failed"}')
    _, reader = report(tmp_path, tmp_path)
    assert "Nothing was measured." in reader.text
    assert "failed" in reader.text


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_values_that_are_no_numbers_are_left_out_and_counted(make_run, tmp_path, value):
    path = make_run("a", peers=3, rounds=2, metrics=("loss",), summary=...)
    lines = (path / "metrics.csv").read_text().splitlines()
    last = max(i for i, line in enumerate(lines) if line.split(",")[3] == "1")
    lines[last] = ",".join([*lines[last].split(",")[:5], value])
    (path / "metrics.csv").write_text("\n".join(lines) + "\n")
    _, reader = report(tmp_path, path)
    assert "a: 1 peer ends with a loss that is no finite number" in reader.text
    assert "nan" not in reader.text.lower().replace("nan in payload", "")


def test_a_run_of_nothing_but_nan_is_reported(make_run, tmp_path):
    path = make_run("a", metrics=("loss",), summary=...)
    rows = [line.rsplit(",", 1)[0] for line in (path / "metrics.csv").read_text().splitlines()]
    text = "\n".join([rows[0] + ",value", *(row + ",nan" for row in rows[1:])]) + "\n"
    (path / "metrics.csv").write_text(text)
    _, reader = report(tmp_path, path)
    assert "No finite value of loss was measured." in reader.text


def test_runs_with_different_metrics_share_a_page(make_run, tmp_path):
    paths = make_run("a", metrics=("accuracy",)), make_run("b", metrics=("loss",)), make_run("c", metrics=())
    _, reader = report(tmp_path, *paths)
    assert all(name in reader.text for name in ("Accuracy", "Loss", "a", "b", "c"))


def test_settings_that_differ_are_listed_and_others_are_not(make_run, tmp_path):
    one = make_run("one", config={"codec": {"name": "ternary", "bits": 2}, "task": "digits"})
    two = make_run("two", config={"codec": {"name": "none"}, "task": "digits"})
    _, reader = report(tmp_path, one, two)
    start = reader.text.index("What differs")
    table = reader.text[start : reader.text.index("Accuracy", start)]
    assert "run codec.name codec.bits one ternary 2 two none –" in table


def test_the_race_counts_to_one_goal(make_run, tmp_path):
    fast, slow = make_run("fast", reach=0.95, rounds=30), make_run("slow", reach=0.3, rounds=30)
    _, reader = report(tmp_path, fast, slow)
    race = reader.text[reader.text.index("Cost of reaching") :]
    assert race.index("slow not reached – –") > race.index("fast")


def test_in_a_long_race_who_did_not_arrive_is_counted_only(make_run, tmp_path):
    paths = [make_run(f"r{i}", rounds=8, reach=0.9 if i else 0.3, metrics=("accuracy",)) for i in range(9)]
    _, reader = report(tmp_path, *paths)
    assert "1 more run did not reach it." in reader.text
    assert "not reached" not in reader.text


def test_a_partition_shared_by_runs_is_drawn_once(make_run, tmp_path):
    paths = make_run("a", seed=3), make_run("b", seed=3), make_run("c", seed=4)
    _, reader = report(tmp_path, *paths)
    maps = [svg for svg in reader.all("svg") if (svg.get("aria-label") or "").startswith("samples by peer")]
    assert len(maps) == 2
    assert "The same partition as in a." in reader.text


@pytest.mark.parametrize(
    ("parameters", "drawn"),
    [
        ({"peers": 200, "graph": "ring"}, "topology: "),
        ({"peers": 201, "graph": "random"}, "histogram of neighbours"),
        ({"peers": 201, "graph": "ring"}, None),
        ({"peers": 120, "graph": "complete"}, None),
        ({"peers": 2, "graph": "ring"}, "topology: "),
        ({"peers": 1, "graph": "ring"}, "topology: "),
    ],
)
def test_a_graph_is_drawn_or_counted_by_its_size(make_run, tmp_path, parameters, drawn):
    _, reader = report(tmp_path, make_run("a", rounds=1, metrics=("loss",), **parameters))
    labels = [svg.get("aria-label") or "" for svg in reader.all("svg")]
    assert any(label.startswith(("topology: ", "histogram of")) for label in labels) == (drawn is not None)
    assert drawn is None or any(label.startswith(drawn) for label in labels)
    assert f"{parameters['peers']} peers, " in reader.text


@pytest.mark.parametrize(
    ("edges", "directed", "said"),
    [
        (
            [[0, 1], [1, 0], [0, 1], [2, 2]],
            False,
            "4 peers, 1 links; a peer has 0 to 1 neighbour, 0.5 on average",
        ),
        ([[0, 1], [1, 0], [2, 3]], True, "4 peers, 3 directed links; a peer sends to 0 to 1 neighbour, 0.8"),
        ([[0, 1, 0.5], [1, 2, 0.5]], False, "4 peers, 2 links"),
        ([], False, "4 peers, 0 links; each has 0 neighbours"),
        ([[0, 5]], False, "6 peers, 1 links"),
    ],
)
def test_edges_are_counted_once(make_run, tmp_path, edges, directed, said):
    graph = {"peers": 4, "edges": edges, "directed": directed}
    _, reader = report(tmp_path, make_run("a", peers=4, rounds=1, topology=graph))
    assert said in reader.text


def test_channels_add_up(make_run, tmp_path):
    path = make_run("a")
    channels = RunFolder(path).ledger.channels
    _, reader = report(tmp_path, path)
    assert f"all {sum(channel.messages for channel in channels.values()):,}" in reader.text


def test_out_may_be_a_folder(make_run, tmp_path):
    run = RunFolder(make_run("a", rounds=1))
    assert write_report([run], run.path) == run.path / "report.html"


def test_a_report_needs_a_run(tmp_path):
    with pytest.raises(ValueError, match="runs is empty"):
        write_report([], tmp_path / "report.html")


def test_a_report_that_fails_leaves_the_old_one(make_run, tmp_path, monkeypatch):
    out = tmp_path / "report.html"
    out.write_text("old")
    run = RunFolder(make_run("a", rounds=1))

    def full(self: Path, *_: object, **__: object) -> int:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="disk full"):
        write_report([run], out)
    assert out.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "report.html"]


def test_importing_the_report_is_light():
    import subprocess
    import sys

    heavy = "matplotlib", "networkx", "jinja2", "pyarrow", "scipy", "pandas"
    code = f"import sys, shoal.report; print([m for m in {heavy} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "[]"
    assert page.__doc__


def test_time_is_virtual_in_simulations_only(make_run, tmp_path):
    real = [make_run(f"real/peer-{i}", name="gossip", on="iroh", peer=i) for i in range(2)]
    simulated = make_run("simulated")
    html, reader = report(tmp_path, *real)
    assert "virtual" not in html
    assert "sent by the peer" in html
    assert "sent by all peers" not in html
    assert "gossip (peer-1)" in reader.text
    assert "virtual time" in report(tmp_path, simulated)[0]
    html, _ = report(tmp_path, *real, simulated)
    assert "sent by all peers" not in html
    assert "counts what that peer sent" in html
