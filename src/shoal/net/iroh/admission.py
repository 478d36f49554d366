"""Who gets in, and with which id. No network in it: from a key and a hello to an entry of the roster, or a refusal."""

from __future__ import annotations

import hmac

import msgspec

from shoal.net.iroh.hello import Hello, Refused
from shoal.net.iroh.roster import Member, Roster


class Admission:
    """One member's rules of the door.

    Args:
        roster: of the network; who gets in is added to it.
        secret: the issuer's secret key, or None for members that are not the issuer.
        invitation: what the issuer asks of newcomers.
        allow: public keys by id; then they alone are let in.
    """

    def __init__(self, roster: Roster, secret: bytes | None, invitation: bytes, allow: tuple[str, ...] = ()) -> None:
        self.roster, self._secret, self._invitation, self._allow = roster, secret, invitation, allow

    def admit(self, key: str, hello: Hello) -> tuple[Member, bool]:
        """The entry of a peer that asks, and whether it is new or has changed.

        Args:
            key: its public key, which the connection has proved.
            hello: what it says.

        Raises:
            Refused: it does not get in; the text is for its user.
        """
        if hello.me.key != key:
            raise Refused("the hello is of another key than the connection")
        if hello.digest != self.roster.digest:
            raise Refused("this network has another experiment than the ticket says")
        if self._allow and key not in self._allow:
            raise Refused(f"the key {key[:10]}… is not in the allow-list")
        known = self.roster.find(key)
        member = known if known is not None else self._newcomer(key, hello)
        entry = msgspec.structs.replace(hello.me, id=member.id, proof=member.proof)
        if known is not None and entry.stamp <= known.stamp:
            return known, False
        try:
            return entry, self.roster.take(entry)
        except ValueError as error:
            raise Refused(str(error)) from None

    def _newcomer(self, key: str, hello: Hello) -> Member:
        """A member for a key that is not in the roster yet."""
        roster = self.roster
        if hello.me.proof and hello.me.is_proved(roster.issuer, roster.digest):
            return hello.me
        if self._secret is None:
            raise Refused("the key is not in this peer's roster: ask the one whose ticket you have", final=False)
        if not self._allow and not (self._invitation and hmac.compare_digest(self._invitation, hello.invitation)):
            raise Refused("the ticket's invitation is not valid here")
        member = msgspec.structs.replace(hello.me, id=self._assign(key, hello.wanted))
        return member.proved(self._secret, roster.digest)

    def _assign(self, key: str, wanted: int | None) -> int:
        roster = self.roster
        if self._allow:
            return self._allow.index(key)
        if wanted is not None:
            if wanted >= roster.peers:
                raise Refused(f"id {wanted} is none here: there are {roster.peers} peers, 0 to {roster.peers - 1}")
            if wanted in roster:
                raise Refused(f"id {wanted} is taken by the key {roster[wanted].key[:10]}…")
            return wanted
        free = roster.lowest_free()
        if free is None:
            raise Refused(f"all {roster.peers} places are taken")
        return free
