"""Peers on an open network, over iroh: keys, tickets, the roster, and the transport."""

from shoal.net.iroh.binding import MissingIroh
from shoal.net.iroh.hello import Refused
from shoal.net.iroh.identity import load_or_make_key, public
from shoal.net.iroh.options import NetOptions
from shoal.net.iroh.roster import Member, Roster
from shoal.net.iroh.ticket import Ticket
from shoal.net.iroh.transport import IrohTransport

__all__ = [
    "IrohTransport",
    "Member",
    "MissingIroh",
    "NetOptions",
    "Refused",
    "Roster",
    "Ticket",
    "load_or_make_key",
    "public",
]
