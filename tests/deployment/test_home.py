"""Homes: one owner at a time, found again by who lives there, and damaged ones are refused with their name."""

from __future__ import annotations

import hashlib
import multiprocessing
import multiprocessing.connection
import os
import stat
from pathlib import Path

import pytest

from shoal.deployment.experiment import Experiment, Net, OtherVersion
from shoal.deployment.home import Home, Taken, Who, experiment_in, homes, new_home, old_home, run_folder, who_in
from shoal.simulation.settings import Settings

DIGEST, OTHER = hashlib.sha256(b"one").digest(), hashlib.sha256(b"other").digest()


def anybody(who: Who) -> bool:
    return not who.finished


def experiment(nonce: str = "a") -> Experiment:
    return Experiment("gossip", Settings.of(task="digits", peers=3), Net.of(), {"parameters": 7}, nonce)


def test_homes_that_have_an_owner_are_left_alone(tmp_path: Path) -> None:
    mine = [new_home(tmp_path, DIGEST) for _ in range(8)]
    assert len({home.folder for home in mine}) == 8
    for number, home in enumerate(mine):
        home.remember(id=number)
    assert old_home(tmp_path, DIGEST, anybody) is None
    mine[3].release()
    mine[5].release()
    again = old_home(tmp_path, DIGEST, anybody)
    assert again is not None
    assert again.who.id == 3
    assert old_home(tmp_path, DIGEST, lambda who: who.id == 5).folder == mine[5].folder  # type: ignore[union-attr]
    assert old_home(tmp_path, OTHER, anybody) is None
    with pytest.raises(Taken, match="belongs to a peer that is running"):
        Home(mine[0].folder)


def test_a_home_whose_owner_never_got_in_is_used_again(tmp_path: Path) -> None:
    first = new_home(tmp_path, DIGEST)
    first.key.write_bytes(b"k" * 32)
    first.release()
    assert old_home(tmp_path, DIGEST, anybody).key.read_bytes() == b"k" * 32  # type: ignore[union-attr]


def _take(folder: Path, pipe: multiprocessing.connection.Connection) -> None:
    home = new_home(folder, DIGEST)
    pipe.send(str(home.folder))
    pipe.recv()  # until it is killed


def test_a_dead_owner_is_none(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    here, there = context.Pipe()
    process = context.Process(target=_take, args=(tmp_path, there))
    process.start()
    folder = Path(here.recv())
    with pytest.raises(Taken):
        Home(folder)
    process.kill()
    process.join(60)
    Home(folder).release()


def test_what_is_remembered_is_there_in_the_next_life(tmp_path: Path) -> None:
    home = new_home(tmp_path, DIGEST)
    assert home.experiment is None
    home.remember(id=2, host=True, port=4433)
    home.experiment = experiment()
    home.release()
    assert who_in(home.folder) == Who(id=2, host=True, port=4433)
    assert experiment_in(home.folder) == experiment()
    assert list(homes(tmp_path)) == [home.folder]
    home = Home(home.folder)
    home.discard()
    assert list(homes(tmp_path)) == []


@pytest.mark.skipif(os.name != "posix", reason="modes are those of POSIX")
def test_a_home_is_for_its_owner_alone(tmp_path: Path) -> None:
    assert stat.S_IMODE(new_home(tmp_path, DIGEST).folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("text", ["", "{", "[]", '{"id": -1}', '{"id": 1, "more": 2}', '{"port": 99999999}', "\0" * 50])
def test_a_damaged_record_is_refused_with_its_name(tmp_path: Path, text: str) -> None:
    home = new_home(tmp_path, DIGEST)
    (home.folder / "who.json").write_text(text)
    home.release()
    with pytest.raises(ValueError, match=r"who\.json: is damaged .* to begin anew"):
        old_home(tmp_path, DIGEST, anybody)
    (home.folder / "who.json").unlink()
    Home(home.folder).release()  # nobody holds it after the refusal


def test_a_damaged_or_foreign_experiment_is_refused_with_its_name(tmp_path: Path) -> None:
    home = new_home(tmp_path, DIGEST)
    home.experiment = experiment()
    path = home.folder / "experiment.json"
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    with pytest.raises(ValueError, match=r"experiment\.json: .*damaged"):
        _ = home.experiment
    path.write_bytes(whole.replace(b'"shoal": "', b'"shoal": "9.'))
    with pytest.raises(OtherVersion, match="all peers need the same version"):
        _ = home.experiment


def test_run_folders_of_one_experiment_lie_together(tmp_path: Path) -> None:
    folders = [run_folder(tmp_path, "gossip", digest, id) for digest in (DIGEST, OTHER) for id in (0, 1)]
    assert len(set(folders)) == 4
    assert len({folder.parent for folder in folders}) == 2
