"""Settings of the network: what is allowed, and what is said of the rest."""

from __future__ import annotations

from typing import Any

import pytest

from shoal.net.iroh.options import NetOptions, is_address


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"bind": "localhost:0"}, "bind: got 'localhost:0'"),
        ({"bind": "127.0.0.1"}, "bind: got"),
        ({"relays": "on"}, "relays: got 'on'; off, default or a list of URLs"),
        ({"relays": ()}, "relays: got"),
        ({"relays": ("relay.example",)}, "relays: got"),
        ({"beat": 0.0}, "beat: got 0.0"),
        ({"beat": float("nan")}, "beat: got nan"),
        ({"dead": 1.5}, "dead: got 1.5; at least two beats, 2.0 s"),
        ({"dead": float("inf")}, "dead: got inf"),
        ({"streams": 0}, "streams: got 0; 1 to 64"),
        ({"streams": 65}, "streams: got 65"),
        ({"queue": 0}, "queue: got 0"),
        ({"allow": ("ab",)}, "allow: got 'ab'; a public key is 64 digits"),
        ({"allow": ("ab" * 32, "ab" * 32)}, "allow: a key is there twice"),
    ],
)
def test_impossible_settings_are_named(setting: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        NetOptions(**setting)


def test_possible_settings_are_taken() -> None:
    assert NetOptions().relays == "off"
    keys = ("ab" * 32, "cd" * 32)
    assert NetOptions("[::]:4000", ("https://relay.example/",), 0.5, 1.0, 64, 1, keys).allow == keys
    assert NetOptions("0.0.0.0:65535", "default").bind == "0.0.0.0:65535"


def test_addresses() -> None:
    for good in ("127.0.0.1:0", "192.0.2.1:65535", "[::1]:4000", "[2001:db8::1]:1"):
        assert is_address(good)
    for bad in ("", ":1", "127.0.0.1:", "127.0.0.1:65536", "::1:4000", "[127.0.0.1]:4", "1.2.3:4", "1.2.3.4:-1", "a:1"):
        assert not is_address(bad)
