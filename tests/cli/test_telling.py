"""What a peer tells at a terminal: a line for what happens, safe to show whatever others said."""

import asyncio
import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from shoal.cli.telling import Live, Plain, sentence, state, teller


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"event": "connected", "peer": 3}, "peer 3 is here"),
        ({"event": "connected again", "peer": 3}, "peer 3 is here again"),
        ({"event": "lost", "peer": 3, "why": "silent for 5 s"}, "peer 3 is gone: silent for 5 s"),
        ({"event": "begins", "peer": 0, "round": 0, "lives": 1}, "begins"),
        ({"event": "begins", "peer": 0, "round": 7, "lives": 2}, "goes on after round 7, life 2"),
        (
            {"event": "measured", "peer": 0, "round": 7, "sent": 1_500_000, "loss": 0.5, "accuracy": 0.875},
            "round 7  accuracy 0.875  loss 0.5  1.5 MB sent",
        ),
        ({"event": "malformed frame refused", "peer": 0, "sender": 2, "why": "torn"}, "refused from peer 2: torn"),
        ({"event": "handshake failed", "peer": 0, "why": "no"}, "a stranger was turned away: no"),
        ({"event": "something new", "peer": 1, "size": 3}, "something new (peer 1): size: 3"),
        ({"event": "finished", "peer": 1}, None),
    ],
    ids=lambda value: value["event"] if isinstance(value, dict) else "",
)
def test_an_entry_of_the_log_in_words(entry, says):
    assert sentence({"time": 1.0, **entry}) == says


@pytest.mark.parametrize("event", ["lost", "malformed frame refused", "handshake failed", "anything else"])
def test_what_others_said_stays_one_harmless_line(event):
    text = sentence({"event": event, "peer": 1, "sender": 1, "why": "\x1b[2J\n\rfoo\u202e" + "x" * 10_000})
    assert text is not None
    assert text.isprintable()
    assert len(text) <= 200
    assert "foo" in text


def node(round=3, here=(1, 2), status="running"):
    world = SimpleNamespace(
        members=SimpleNamespace(here=set(here)), size=4, ledger=SimpleNamespace(total=2_500_000), now=lambda: 90.0
    )
    return SimpleNamespace(
        id=0, status=status, world=world, latest={"accuracy": 0.75}, peer=SimpleNamespace(state={"round": round}),
        parts=SimpleNamespace(name="gossip", settings=SimpleNamespace(rounds=8)),
    )  # fmt: skip


def test_the_state_says_who_is_here_and_how_far_it_is():
    assert state(node()) == "2 of 3 others  90 s  2.5 MB  accuracy 0.75"
    assert state(node(status="waiting")) == "waiting: 2 of 3 others here"


def test_without_a_terminal_lines_go_to_standard_error(capsys):
    with teller() as tell:
        assert isinstance(tell, Plain)
        tell.say("hello")
        tell.event({"event": "connected", "peer": 1})
        tell.event({"event": "finished", "peer": 1})
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "hello\npeer 1 is here\n"


def test_at_a_terminal_a_line_moves_below_what_happened():
    console = Console(file=io.StringIO(), force_terminal=True, width=80, color_system=None)

    async def main() -> None:
        with Live(console) as tell:
            tell.watch(node())
            tell.event({"event": "connected", "peer": 1})
            tell.event({"event": "measured", "peer": 0, "round": 3, "sent": 1, "loss": 1.0})
            await asyncio.sleep(0)

    asyncio.run(main())
    text = console.file.getvalue().replace("\x1b[?25h", "").replace("\x1b[?25l", "")
    assert "peer 1 is here" in text
    assert "round 3 " not in text
    last = text.rstrip("\n").split("\n")[-1]
    assert "gossip 0" in last
    assert "3/8 2 of 3 others  90 s  2.5 MB  accuracy 0.75" in last
