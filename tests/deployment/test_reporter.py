"""A reporter keeps a node's board: what its world says, what the others tell, and nothing that a hostile one tells."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from shoal import __version__
from shoal.deployment import Board, Node, Reporter, real_parts
from shoal.net import RealWorld, frame_limit
from shoal.simulation.settings import Settings
from tests.net.wires import Wires

SETTINGS = {"protocol": "gossip:steps=3", "task": "digits", "peers": 3, "topology": "complete", "rounds": 4, "seed": 11}


def make_nodes(wires: Wires) -> list[Node]:
    parts, _ = real_parts(Settings.of(**SETTINGS))
    limit = frame_limit(parts.trainer.layout.size)
    worlds = [
        RealWorld(
            i, parts.size, wires.transport(i), limit=limit, seed=parts.settings.seed, rounds=parts.settings.rounds
        )
        for i in range(parts.size)
    ]
    return [Node(parts, world.id, world) for world in worlds]


async def live(node: Node, board: Board, every: float = 0.01) -> None:
    async with Reporter(node, board, every=every):
        await node.world.run(node.protocol, make_peer=node.make_peer, company=2, linger=1.0)
        await node.finish("finished")


def run(prepare: Callable[[list[Node]], None] = lambda nodes: None) -> tuple[list[Node], list[Board]]:
    async def main() -> tuple[list[Node], list[Board]]:
        nodes = make_nodes(Wires())
        boards = [Board(node.id, 3, "run", SETTINGS["rounds"]) for node in nodes]  # type: ignore[arg-type]
        prepare(nodes)
        await asyncio.gather(*(live(node, board) for node, board in zip(nodes, boards, strict=True)))
        return nodes, boards

    return asyncio.run(asyncio.wait_for(main(), 60))


def test_every_board_agrees_with_the_worlds() -> None:
    nodes, boards = run()
    for node, board in zip(nodes, boards, strict=True):
        shown = {row["peer"]: row for row in board.snapshot()["rows"]}
        own = shown[node.id]
        assert sorted(shown) == [0, 1, 2]
        assert {row["state"] for row in shown.values()} == {"finished"}
        assert (own["sent"], own["received"]) == (node.world.ledger.total, sum(node.world.received.values()))
        assert (own["round"], own["lives"], own["version"]) == (4, 1, __version__)
        assert own["scores"] == node.latest
        rows = [(r, value) for _, r, _, _, name, value in node.world.metrics if name == "accuracy"]
        course = own["courses"]["accuracy"]
        assert course[-1] == rows[-1]
        assert all(point in rows for point in course)
        for other in nodes:
            assert shown[other.id]["sent"] <= other.world.ledger.total
        assert {"connected", "finished"} <= set(board.kinds)
        assert board.malformed == 0


def test_what_a_world_was_hooked_with_before_still_hears_and_gets_its_hooks_back() -> None:
    logged: list[dict[str, Any]] = []
    controls: list[tuple[int, dict[str, Any]]] = []
    hooks: dict[int, tuple[Any, Any]] = {}

    def prepare(nodes: list[Node]) -> None:
        world = nodes[0].world
        world.on_log, world.on_control = logged.append, lambda sender, content: controls.append((sender, content))
        hooks[0] = world.on_log, world.on_control
        other = nodes[1].world
        other.on_commit = lambda peer: other.tell_all("gossip about", {"round": int(peer.state["round"])})

    nodes, _ = run(prepare)
    assert (nodes[0].world.on_log, nodes[0].world.on_control) == hooks[0]
    assert {"connected"} <= {entry["event"] for entry in logged}
    assert controls == [(1, {"round": r, "what": "gossip about"}) for r in (1, 2, 3, 4)]


@pytest.mark.parametrize("content", [{"peer": 0, "state": "failed"}, {"peer": 1, "round": float("nan")}, {}])
def test_a_hostile_status_changes_nothing_but_the_log(content: dict[str, Any]) -> None:
    def prepare(nodes: list[Node]) -> None:
        hostile = nodes[1].world
        hostile.on_commit = lambda peer: hostile.tell_all("status", content)

    _, boards = run(prepare)
    for board in (boards[0], boards[2]):
        shown = {row["peer"]: row for row in board.snapshot()["rows"]}
        assert [row["state"] for row in shown.values()] == ["finished"] * 3  # its honest statuses still count
        assert (shown[1]["malformed"], board.malformed) == (4, 4)
        assert board.kinds["malformed status refused"] == 3


def test_a_peer_says_what_its_protocol_waits_for() -> None:
    async def main() -> list[list[str]]:
        node = make_nodes(Wires())[0]
        board = Board(0, 3, "run", 4)
        reporter = Reporter(node, board, every=60)

        async def protocol(me: Any) -> None:
            for waiting in (me.spawn(me.receive("news")), me.spawn(me.sleep(7.5))):
                await asyncio.sleep(0)
                reporter.tell()
                seen.append(board.snapshot()["rows"][0]["waits"])
                waiting.cancel()
                await asyncio.wait({waiting})

        seen: list[list[str]] = []
        async with reporter:
            await node.world.run(protocol, make_peer=node.make_peer)
        return seen

    assert asyncio.run(asyncio.wait_for(main(), 60)) == [["receive('news')", "sleep(7.5)"], ["sleep(7.5)"]]


def test_a_report_that_fails_stops_nothing_and_is_on_the_board() -> None:
    def fail(what: str, content: dict[str, Any]) -> None:
        raise OSError("no way out")

    def prepare(nodes: list[Node]) -> None:
        nodes[0].world.tell_all = fail

    nodes, boards = run(prepare)
    assert nodes[0].world.peer.state["round"] == SETTINGS["rounds"]
    failed = next(e for e in boards[0].snapshot()["events"] if e["event"] == "report failed")
    assert failed["text"] == "why: OSError('no way out')"


def test_a_metric_with_an_impossible_name_or_value_is_not_told() -> None:
    node = make_nodes(Wires())[0]
    board = Board(0, 3, "run", 4)
    node.latest = {"<b>": 1.0, "loss": float("nan"), "F1 (macro)": 0.5}
    Reporter(node, board).tell()
    assert board.snapshot()["rows"][0]["scores"] == {"F1 (macro)": 0.5}


@pytest.mark.parametrize(("peers", "every"), [(3, 1.0), (50, 1.0), (400, 8.0)])
def test_the_more_peers_the_more_rarely_each_tells(peers: int, every: float) -> None:
    board = Board(0, peers, "run", 4)
    Reporter(make_nodes(Wires())[0], board)
    assert board.snapshot()["every"] == every
