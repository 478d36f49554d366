"""The side that dials: saying hello, and asking one contact after the other to be let in."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

from shoal.net.iroh.binding import load, words
from shoal.net.iroh.endpoint import dial, whereabouts
from shoal.net.iroh.hello import ANSWER_LIMIT, Hello, Refusal, Refused, Welcome, read_message, write_message
from shoal.net.iroh.roster import Member

PATIENCE = 10.0  # seconds for a handshake
STAGGER = 1.0  # seconds until the next contact is asked, too


def myself(endpoint: Any, key: str, secret: bytes, id: int, known: Member | None) -> Member:
    """A peer's own entry in the roster, signed by itself.

    Args:
        endpoint: where it can be reached.
        key, secret: its keys.
        id: its number, or any if it has none yet.
        known: its entry so far, whose id and proof it keeps, and whose stamp is surpassed.
    """
    addresses, relay = whereabouts(endpoint)
    now = int(time.time() * 1000)
    if known is None:
        return Member(id, key, addresses, relay, now).sealed(secret)
    return Member(known.id, key, addresses, relay, max(now, known.stamp + 1), proof=known.proof).sealed(secret)


async def ask(connection: Any, hello: Hello) -> tuple[Any, Welcome]:
    """Say hello on a connection; returns the stream, and the answer.

    Raises:
        Refused: that is the answer.
        ConnectionError: there is none, or nonsense.
    """
    iroh = load()
    try:
        async with asyncio.timeout(PATIENCE):
            stream = await connection.open_bi()
            await write_message(stream.send(), hello)
            answer = await read_message(stream.recv(), Welcome | Refusal, ANSWER_LIMIT)
    except TimeoutError:
        raise ConnectionError("does not answer the hello") from None
    except (iroh.IrohError, ValueError) as error:
        raise ConnectionError(words(error)) from None
    if isinstance(answer, Refusal):
        raise Refused(answer.reason, answer.final)
    return stream, answer


async def ask_all(endpoint: Any, contacts: list[Member], hello: Hello, timeout: float) -> Welcome:
    """Ask contacts to be let in, the next one when those before are slow, again and again, until one says yes or no.

    Raises:
        Refused: one says no.
        ConnectionError: nobody says either within `timeout` seconds.
    """
    said: dict[int, str] = {}

    async def one(member: Member, delay: float) -> Welcome:
        await asyncio.sleep(delay)
        while True:
            try:
                return await _once(endpoint, member, hello)
            except (Refused, ConnectionError) as error:
                said[member.id] = str(error)
                if isinstance(error, Refused) and error.final:
                    raise
            await asyncio.sleep(random.uniform(0.5, 1.0))

    tasks = [asyncio.ensure_future(one(member, i * STAGGER)) for i, member in enumerate(contacts)]
    try:
        async with asyncio.timeout(timeout):
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            return done.pop().result()
    except TimeoutError:
        heard = "; ".join(f"peer {m.id}: {said.get(m.id, 'does not answer')}" for m in contacts)
        raise ConnectionError(f"nobody has let this peer in within {timeout:g} s ({heard})") from None
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _once(endpoint: Any, member: Member, hello: Hello) -> Welcome:
    connection = await dial(endpoint, member, PATIENCE)
    try:
        return (await ask(connection, hello))[1]
    finally:
        connection.close(0, b"")
