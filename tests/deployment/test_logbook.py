"""Logbooks: every entry is on disk when it is written, a torn line costs no other, and files do not grow for ever."""

from __future__ import annotations

import json
import math
from pathlib import Path

from shoal.deployment.logbook import Logbook, tee
from shoal.report import RunFolder


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_entries_are_there_at_once_and_in_order(tmp_path: Path) -> None:
    book = Logbook(tmp_path / "run")
    for number in range(3):
        book.write({"event": "e", "number": number})
        assert lines(tmp_path / "run" / "log.jsonl")[-1]["number"] == number
    book.close()
    book = Logbook(tmp_path / "run")
    book.write({"event": "e", "number": 3})
    found = lines(tmp_path / "run" / "log.jsonl")
    assert [entry["number"] for entry in found] == [0, 1, 2, 3]
    assert all(isinstance(entry["at"], float) for entry in found)


def test_a_torn_line_spoils_no_other(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"event": "a"}\n{"event": "b", "x": ')
    (tmp_path / "run.json").write_text('{"format": 1, "protocol": "p", "peers": 1}')
    book = Logbook(tmp_path)
    book.write({"event": "c"})
    assert [entry["event"] for entry in RunFolder(tmp_path).events()] == ["a", "c"]


def test_files_are_bounded_and_the_last_entries_are_kept(tmp_path: Path) -> None:
    book = Logbook(tmp_path, limit=1000)
    for number in range(200):
        book.write({"event": "e", "number": number})
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert set(sizes) == {"log.jsonl", "log.1.jsonl"}
    assert max(sizes.values()) < 1100
    (tmp_path / "run.json").write_text('{"format": 1, "protocol": "p", "peers": 1}')
    numbers = [entry["number"] for entry in RunFolder(tmp_path).events()]
    assert numbers == list(range(numbers[0], 200))
    assert len(numbers) >= 10


def test_what_json_lacks_is_null_or_text(tmp_path: Path) -> None:
    Logbook(tmp_path).write({"event": "e", "loss": math.nan, "path": Path("x")})
    (entry,) = lines(tmp_path / "log.jsonl")
    assert (entry["loss"], entry["path"]) == (None, "x")


def test_a_tee_tells_all(tmp_path: Path) -> None:
    heard: list[tuple[str, object]] = []
    tee(lambda e: heard.append(("a", e)), lambda e: heard.append(("b", e)))({"event": "e"})
    assert heard == [("a", {"event": "e"}), ("b", {"event": "e"})]
