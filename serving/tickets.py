"""Tickets: a choice, sealed, that the searcher brings back with what was found, to whichever process of the service.

Base64url without padding of one byte for the format, three for the version of the pseudonym key, and the choice in MessagePack,
encrypted by AES-SIV. So nobody but a gateway can make or change one, and no exposures can be made up; and the logs of those who
pass it on show no ids. What is in clear is authenticated too. The key follows from the pseudonym key, as that of sealed ids does,
by a purpose of its own.
"""

from __future__ import annotations

import base64
import binascii
import functools
from typing import Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from experiments.assignment import Assignment
from schemas.errors import ForecourtError
from schemas.profile_row import MAX_CLOCK_SKEW_MS
from schemas.pseudonym import KeyRing
from serving import featured, reader
from serving.segments import Segment

FORMAT: Final = 1
MAX_AGE_MS: Final = 600_000
_PURPOSE: Final = b"forecourt tickets"
_HEAD_BYTES: Final = 4


class TicketError(ForecourtError):
    """The asker's fault: a ticket that can't be taken."""


class Ticket(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """What a choice came of, and nothing that follows from it and the rules of ``rules``, their version.

    Neither filters nor listings seen: with the conflicts told, the responses can be read without. So it is never long.
    ``rule_version``, ``source`` and ``reason`` are those of the read; ``choice`` says why the personal answer is the default's.
    """

    at: int  # ms UTC
    session: str
    user: str | None
    anonymous: str | None
    k: int
    segments: tuple[Segment, ...]
    rule_version: int | None
    source: reader.Source
    reason: reader.Reason | None
    rules: int
    unknown: int
    assignment: Assignment
    file_version: int | None
    policy: str
    filters: tuple[str, ...]  # the attributes
    conflicts: tuple[featured.Conflict, ...]
    dropped: tuple[str, ...]
    choice: featured.Reason | None
    impressions: tuple[bytes, ...]  # an id for each position, 16 bytes


_ENCODE: Final = msgspec.msgpack.Encoder().encode
_DECODE: Final = msgspec.msgpack.Decoder(Ticket).decode


def sealed(ticket: Ticket, ring: KeyRing) -> str:
    """The ticket as a text, by the key that writes: newer ones may be unknown to other processes yet."""
    head = bytes([FORMAT]) + ring.current.version.to_bytes(_HEAD_BYTES - 1, "big")
    return _text_of(head + _cipher_of(ring.current.secret).encrypt(_ENCODE(ticket), [head]))


def opened(text: str, ring: KeyRing, now: int) -> Ticket:
    """The ticket of a text, by any key of the ring; ``TicketError`` unless a gateway made it within the last ten minutes."""
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) <= _HEAD_BYTES or _text_of(raw) != text:  # one text a ticket: the last character may have bits that say nothing
        msg = "ticket, must be as /v1/featured gave it: it is no base64url, or cut off"
        raise TicketError(msg)
    head, body = raw[:_HEAD_BYTES], raw[_HEAD_BYTES:]
    if head[0] != FORMAT:
        msg = f"ticket's format == {head[0]}, must be {FORMAT}: it is of another version of the gateway"
        raise TicketError(msg)
    version = int.from_bytes(head[1:], "big")
    key = next((key for key in ring.keys if key.version == version), None)
    if key is None:
        msg = f"ticket's key == {version}, must be one of the pseudonym keys in use"
        raise TicketError(msg)
    try:
        ticket: Ticket = _DECODE(_cipher_of(key.secret).decrypt(body, [head]))
    except (InvalidTag, ValueError) as error:  # a ValueError: too short for its tag; or what another version put into this format
        msg = "ticket, must be as /v1/featured gave it: it is damaged, or of another service"
        raise TicketError(msg) from error
    if not -MAX_CLOCK_SKEW_MS <= now - ticket.at <= MAX_AGE_MS:
        msg = f"ticket's age == {(now - ticket.at) / 1000:g} s, must be at most {MAX_AGE_MS // 1000} s"
        raise TicketError(msg)
    return ticket


def _text_of(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


@functools.lru_cache(16)
def _cipher_of(secret: bytes) -> AESSIV:
    return AESSIV(HKDF(SHA512(), 32, None, _PURPOSE).derive(secret))
