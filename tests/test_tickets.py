"""Tickets: what is sealed comes back, and nothing else is ever opened."""

from __future__ import annotations

import base64
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.assignment import Assignment
from schemas.pseudonym import KeyRing, ring_of, seal
from serving.featured import Conflict
from serving.segments import Segment
from serving.tickets import FORMAT, MAX_AGE_MS, Ticket, TicketError, opened, sealed

NOW = 1_800_000_000_000
OLD, NEW = "1:the older of the two keys", "2:the newer of the two keys"
RING = ring_of(OLD, "tests")
TICKET = Ticket(
    at=NOW,
    session="s1",
    user="ann",
    anonymous=None,
    k=2,
    segments=(Segment("electric", 0.8, 20, 16, NOW + 9), Segment("suv", 0.6, 20, 12, NOW + 9)),
    rule_version=7,
    source="store",
    reason=None,
    rules=7,
    unknown=0,
    assignment=Assignment("first", 1, "treatment", "s1", True, "combined", "assigned", "session", 0.5, None),  # noqa: FBT003
    file_version=3,
    policy="combined",
    filters=("body_type",),
    conflicts=(Conflict("suv", ("body_type",)),),
    dropped=(),
    choice=None,
    impressions=(b"0123456789abcdef", b"fedcba9876543210"),
)
# As this format was written first. If what a ticket holds changes, FORMAT must too: processes of both versions run at once.
FIRST = (
    "AQAAAf1kcxnikX_DI1VK--v3FrswUDH4eRjFau0_89KkYgr0Jz4v5LsW2XLGta1tUBW_v4byQPSuLAB7Qekd6UCtjQqjFOYjeZUZ6AatJ5yt9w"
    "a0RP9FjZAKzkIz0Q0C5OL0SBhIJzYEZFrrs8DmKCMDHlNiuhxJthaOKzaMz6ciDp9pUD4HMMY2gtNzixki1_Nh3sNsbOt88vKEGz6GJqorUzsH"
    "f7CJxtbdMYTD0uuiTGfWVxz7g0H7270q1FzIMkbjj2XRr1koCAuQqHIdl3ylZX8uRgMfaqkew-9ggfnkz8V9fO-PBp7RVBL7_XKwTVw"
)

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

_ids = st.text(max_size=30)
_maybe = st.none() | _ids
_numbers = st.integers(0, 2**62)
TICKETS = st.builds(
    Ticket,
    at=st.just(NOW),
    session=_ids,
    user=_maybe,
    anonymous=_maybe,
    k=st.integers(1, 10),
    segments=st.lists(st.builds(Segment, _ids, st.floats(0, 1), _numbers, _numbers, _numbers), max_size=4).map(tuple),
    rule_version=st.none() | _numbers,
    source=st.sampled_from(["store", "cache", "none"]),
    reason=st.sampled_from([None, "timeout", "opted_out"]),
    rules=_numbers,
    unknown=_numbers,
    assignment=st.builds(
        Assignment,
        _maybe,
        st.none() | _numbers,
        _maybe,
        _maybe,
        st.booleans(),
        _maybe,
        st.sampled_from(["assigned", "killed", "fault"]),
        st.sampled_from([None, "session", "user"]),
        st.none() | st.floats(0, 1),
        st.none() | st.booleans(),
    ),
    file_version=st.none() | _numbers,
    policy=_ids,
    filters=st.lists(_ids, max_size=3).map(tuple),
    conflicts=st.lists(st.builds(Conflict, _ids, st.lists(_ids, max_size=3).map(tuple)), max_size=3).map(tuple),
    dropped=st.lists(_ids, max_size=3).map(tuple),
    choice=st.sampled_from([None, "no_segments", "all_conflict", "fault"]),
    impressions=st.lists(st.binary(min_size=16, max_size=16), max_size=10).map(tuple),
)


def raw_of(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def text_of(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


@given(TICKETS)
def test_what_is_sealed_comes_back(ticket: Ticket) -> None:
    text = sealed(ticket, RING)
    assert opened(text, RING, NOW) == ticket
    assert text == sealed(ticket, RING)
    assert set(text) <= set(ALPHABET)


@settings(max_examples=300)
@given(TICKETS, st.data())
def test_a_ticket_with_any_bit_or_character_changed_is_refused(ticket: Ticket, data: Any) -> None:
    raw = bytearray(raw_of(sealed(ticket, RING)))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    text = sealed(ticket, RING)
    place, character = data.draw(st.integers(0, len(text) - 1)), data.draw(st.characters())
    changed = text[:place] + character + text[place + 1 :]
    for forged in (text_of(bytes(raw)), *([changed] if changed != text else [])):
        with pytest.raises(TicketError, match="ticket"):
            opened(forged, RING, NOW)


@given(st.text() | st.binary(max_size=80).map(text_of) | st.binary(max_size=80).map(lambda each: text_of(b"\x01\0\0\x01" + each)))
def test_what_is_no_ticket_is_refused(text: str) -> None:
    with pytest.raises(TicketError, match="ticket"):
        opened(text, RING, NOW)


def test_every_last_character_but_one_is_refused() -> None:
    """Of the bits of a text's last character some say nothing."""
    for size in range(3):
        text = sealed(msgspec.structs.replace(TICKET, session="s" * size), RING)
        others = [
            text[:-1] + other for other in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_" if other != text[-1]
        ]
        for other in [*others, text + "=", text + "\n", text[:-1], text + "A"]:
            with pytest.raises(TicketError):
                opened(other, RING, NOW)


def test_no_id_can_be_read_in_a_ticket() -> None:
    told = raw_of(sealed(msgspec.structs.replace(TICKET, session="session-of-ann", user="ann-with-an-id"), RING))
    assert not [each for each in (b"ann", b"session", b"electric", b"combined") if each in told]


@pytest.mark.parametrize(
    ("writes", "reads", "opens"),
    [
        (OLD, OLD, True),
        (OLD, f"{OLD}\n{NEW}", True),
        (f"{OLD}\n{NEW}", OLD, True),  # the newer key is known here, and not yet there: the older one still writes
        (f"{NEW}\n{OLD}", f"{OLD}\n{NEW}", True),
        (NEW, OLD, False),
        ("1:another key of this version", OLD, False),
    ],
)
def test_any_key_of_the_ring_opens_what_the_one_that_writes_has_sealed(writes: str, reads: str, opens: bool) -> None:
    text, ring = sealed(TICKET, ring_of(writes, "tests")), ring_of(reads, "tests")
    if opens:
        assert opened(text, ring, NOW) == TICKET
    else:
        with pytest.raises(TicketError, match=r"ticket's key == 2, must be one of the|damaged, or of another service"):
            opened(text, ring, NOW)


@pytest.mark.parametrize(
    ("later", "opens"), [(0, True), (MAX_AGE_MS, True), (MAX_AGE_MS + 1, False), (-300_000, True), (-300_001, False)]
)
def test_a_ticket_is_good_for_ten_minutes(later: int, opens: bool) -> None:
    text = sealed(TICKET, RING)
    if opens:
        assert opened(text, RING, NOW + later) == TICKET
    else:
        with pytest.raises(TicketError, match=r"ticket's age == -?\d+\.\d+ s, must be at most 600 s"):
            opened(text, RING, NOW + later)


def test_a_ticket_of_another_version_says_so() -> None:
    raw = raw_of(sealed(TICKET, RING))
    with pytest.raises(TicketError, match=f"ticket's format == 9, must be {FORMAT}: it is of another version of the gateway"):
        opened(text_of(b"\x09" + raw[1:]), RING, NOW)


def test_what_was_sealed_for_another_purpose_is_no_ticket() -> None:
    ring: KeyRing = RING
    with pytest.raises(TicketError, match="damaged"):
        opened(text_of(bytes([FORMAT]) + seal(ring.current, "ann" * 40)), ring, NOW)


def test_a_ticket_of_the_first_process_of_this_version_is_read() -> None:
    assert FORMAT == 1
    assert opened(FIRST, RING, NOW) == TICKET
    assert sealed(TICKET, RING) == FIRST
