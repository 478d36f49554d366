"""A socket that speaks iroh: how it is bound, and how another one is dialled."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from shoal.net.iroh.binding import load, words
from shoal.net.iroh.hello import ALPN
from shoal.net.iroh.options import NetOptions
from shoal.net.iroh.roster import ADDRESSES_LIMIT, Member

ONLINE = 10.0  # seconds that a relay has to answer at the start


async def bind(secret: bytes, options: NetOptions) -> Any:
    """An endpoint of iroh.

    Raises:
        OSError: the address is not to be had.
    """
    iroh = load()
    if options.relays == "off":
        preset, mode = iroh.preset_minimal(), iroh.RelayMode.disabled()
    elif options.relays == "default":
        preset, mode = iroh.preset_n0(), iroh.RelayMode.default_mode()
    else:
        preset, mode = iroh.preset_minimal(), iroh.RelayMode.custom_from_urls(list(options.relays))
    try:
        endpoint = await iroh.Endpoint.bind(
            iroh.EndpointOptions(
                preset=preset, relay_mode=mode, bind_addr=options.bind, secret_key=secret, alpns=[ALPN]
            )
        )
    except iroh.IrohError as error:
        raise OSError(f"bind: cannot listen at {options.bind}: {words(error)}") from None
    if options.relays != "off":
        with contextlib.suppress(TimeoutError):  # peers that can be reached directly do without
            await asyncio.wait_for(endpoint.online(), ONLINE)
    return endpoint


def whereabouts(endpoint: Any) -> tuple[tuple[str, ...], str | None]:
    """Addresses and relay by which an endpoint can be reached."""
    found = endpoint.addr()
    return tuple(found.direct_addresses()[:ADDRESSES_LIMIT]), found.relay_url()


async def dial(endpoint: Any, member: Member, timeout: float) -> Any:
    """A connection with a member, whose key it proves.

    Raises:
        ConnectionError: it does not answer.
    """
    iroh = load()
    try:
        address = iroh.EndpointAddr(iroh.EndpointId.from_string(member.key), member.relay, list(member.addresses))
        return await asyncio.wait_for(endpoint.connect(address, ALPN), timeout)
    except TimeoutError:
        raise ConnectionError("does not answer") from None
    except iroh.IrohError as error:
        raise ConnectionError(words(error)) from None
