"""Four processes of a gloo group, against the simulated world, bit for bit and byte for byte; and what goes wrong."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from shoal.engine import SimulatedWorld
from shoal.engine.message import ENVELOPE
from shoal.net.checkpoints import Checkpoints
from shoal.net.meeting import agree_on_session
from shoal.net.pulse import Pulse
from shoal.tensors.payload import decode, encode
from tests.net import processes
from tests.net.group_process import ROUNDS, SIZE, TOPOLOGIES, averaging

Seen = list[dict[str, Any]]


@pytest.fixture(scope="module")
def all_seen(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """What each process saw, by rank."""
    folder = tmp_path_factory.mktemp("group")
    started = processes.start("tests.net.group_process", SIZE, str(folder))
    said = processes.wait(started)
    assert [process.returncode for process in started] == [0] * SIZE, said
    return [decode((folder / f"{rank}.bin").read_bytes()) for rank in range(SIZE)]


def of(all_seen: Seen, what: str, *path: str) -> list[Any]:
    found = [seen[what] for seen in all_seen]
    for name in path:
        found = [value[name] for value in found]
    return found


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_an_exchange_gives_the_bits_and_counts_the_bytes_of_the_simulated_world(name: str, all_seen: Seen) -> None:
    graph = TOPOLOGIES[name]
    simulated = SimulatedWorld(
        SIZE, seed=7, rounds=ROUNDS, neighbours=graph.neighbours, in_neighbours=graph.in_neighbours
    )
    simulated.run(averaging)
    for peer, x in zip(simulated._peers, of(all_seen, f"averaging, {name}", "state", "x"), strict=True):
        assert peer is not None
        assert torch.equal(x, peer.state["x"])
    assert of(all_seen, f"averaging, {name}", "ledger") == [simulated.ledger.as_dict()] * SIZE


def test_who_has_finished_is_absent(all_seen: Seen) -> None:
    heard = of(all_seen, "leaving_early", "state", "heard")
    assert heard[3] == [[0, 1, 2], [1, 2], [2], []]
    assert heard[0] == [[1, 2, 3]]
    counts = of(all_seen, "leaving_early", "ledger")[0]["channels"]["exchange"]
    assert counts["messages"] == 3 * (4 + 3 + 2 + 1)
    assert 0 < counts["lost"] == counts["sent"] - counts["delivered"]


def test_nan_is_dropped_and_logged_by_all_who_hear_it(all_seen: Seen) -> None:
    assert of(all_seen, "spoilt", "state", "heard") == [[2, 3], [0, 2, 3], [0, 3], [0, 2]]
    events = of(all_seen, "spoilt", "events")
    assert [len(seen) for seen in events[1:]] == [0, 1, 1]
    assert {(e["event"], e["sender"], e["peer"]) for e in events[0]} == {
        ("dropped: NaN or infinity", 1, peer) for peer in (0, 2, 3)
    }  # rank 0 is told


@pytest.mark.parametrize(("name", "heard"), [("complete", [[2, 3], [0, 3]]), ("ring", [[3], [3]])])
def test_what_is_no_payload_is_dropped_and_logged(name: str, heard: list[list[int]], all_seen: Seen) -> None:
    found = of(all_seen, f"garbled, {name}", "state", "heard")
    assert [found[0], found[2]] == heard
    entry = of(all_seen, f"garbled, {name}", "events")[2][0]
    assert (entry["event"], entry["sender"]) == ("malformed payload dropped", 1)
    assert "must begin with" in entry["why"]


def test_whoever_is_tired_of_waiting_takes_part_all_the_same(all_seen: Seen) -> None:
    assert of(all_seen, "two_channels", "ended") == [True] * SIZE
    assert of(all_seen, "two_channels", "state", "heard")[0] == [[1, 2, 3]] * 6


def test_messages_beside_exchanges_are_refused(all_seen: Seen) -> None:
    for said in of(all_seen, "sending", "state", "said"):
        assert [text.split(":")[0] for text in said] == ["Refused"] * 3
        assert "wants to wait for" in said[0]
        assert "wants to send to" in said[2]


def test_a_failure_of_one_ends_all_and_they_say_whose_it_was(all_seen: Seen) -> None:
    errors = of(all_seen, "failing", "error")
    assert errors[2].startswith("PeerFailed: peer 2 failed")
    assert "a mistake" in errors[2]
    assert errors[0] == "GroupFailed: peer 2 failed: KeyError: 'a mistake'"
    assert errors[1] == errors[3] == "GroupFailed: peer 2 failed: see what it wrote itself"
    assert of(all_seen, "failing", "told") == [[0, 1, 2, 3], [], [], []]  # and the group lives on


def test_peers_that_are_not_in_one_exchange_are_told_so(all_seen: Seen) -> None:
    errors = of(all_seen, "out_of_step", "error")
    assert all("in a group all peers exchange in step" in error for error in errors)
    assert "peer 3 to another one, of round 1" in errors[0]


def test_all_stop_in_one_round_when_one_is_asked_to(all_seen: Seen) -> None:
    assert of(all_seen, "endless", "ended") == [False] * SIZE
    assert of(all_seen, "endless", "error") == [""] * SIZE
    assert of(all_seen, "endless", "state", "round") == [5] * SIZE


def test_an_all_reduce_is_the_mean_of_those_who_are_there_and_have_no_nan(all_seen: Seen) -> None:
    means = of(all_seen, "meaning", "state", "means")
    line = torch.arange(5.0)
    expected = [line * 2.5, line * (1 + 2 + 4) / 3 + 1, line * 2 + 2]
    for rank, found in enumerate(means):
        torch.testing.assert_close(found, expected[: 2 if rank == 3 else 3])
        assert all(torch.equal(a, b) for a, b in zip(found, means[0], strict=False))  # the same bits everywhere
    dropped = [e["sender"] for e in of(all_seen, "meaning", "events")[1]]
    assert dropped == [2]
    body = len(encode(line))
    counts = of(all_seen, "meaning", "ledger")[3]["channels"]["mean"]
    ring, rest = 2 * SIZE * 2 * (SIZE - 1), 3 * 3  # messages of two rounds for all, and of one for three peers
    assert counts["messages"] == ring + rest
    assert counts["sent"] == ring * -(-body // SIZE) + rest * (ENVELOPE.size + body)


def test_vectors_of_different_sizes_have_no_mean(all_seen: Seen) -> None:
    assert all("differ in size" in error for error in of(all_seen, "unequal", "error"))


def test_sharing_gives_everybody_everything(all_seen: Seen) -> None:
    assert of(all_seen, "shared") == [[{"rank": r, "long": "x" * 1000 * r} for r in range(SIZE)]] * SIZE


# -- one process -----------------------------------------------------------------------------------------------


def test_a_process_that_stands_still_is_lost_and_one_that_lags_is_behind() -> None:
    store: dict[str, bytes] = {}
    pulse = Pulse(store, 0, 3, dead=5.0)
    pulse.entered = 4
    for now in range(8):
        pulse._look({1: b"%d:4" % now, 2: b"3:3"}, float(now))
    assert list(pulse.lost) == [2]
    assert pulse.behind() == [2]
    assert "6 s" in pulse.wait_for_loss()[2]


def test_a_session_is_of_those_who_are_here_whatever_earlier_ones_have_left() -> None:
    store = dist.HashStore()
    sessions = []
    for _ in range(3):
        with ThreadPoolExecutor(3) as threads:
            found = list(threads.map(lambda rank: agree_on_session(store, rank, 3, 20.0), [2, 0, 1]))
        assert len(set(found)) == 1
        sessions += found[:1]
    assert len(set(sessions)) == 3
    with pytest.raises(TimeoutError, match="rank 1 waits for others of 2"):
        agree_on_session(store, 1, 2, 0.2)  # an old welcome is none


def test_states_are_kept_from_the_round_that_all_have(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path)
    for r in range(1, 6):
        store.keep(r, encode({"round": r}), {"seconds": r / 2}, least=min(r - 1, 3))
    assert store.rounds() == [3, 4, 5]
    state, world = store.go_back(4)
    assert (state["round"], world) == (4, {"seconds": 2.0})
    assert store.rounds() == [3, 4]
    (tmp_path / "round-3.bin").write_bytes(b"no state")
    with pytest.raises(ValueError, match=r"round-3\.bin: cannot be read"):
        store.go_back(3)
    store.begin_anew()
    assert store.rounds() == []
