"""The row's layout: cells sort as windows do, newest first, and everything written is read back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import RowError, StoreError, StoreUnavailableError
from schemas.identity import NEVER, Identity, Link, Linked, Said
from schemas.instants import LAST_INSTANT_MS
from schemas.profile_row import (
    Emptied,
    IdentityCell,
    Membership,
    Profile,
    ProfileRow,
    SegmentSpans,
    Span,
    cells_of,
    consent_cell,
    decode_row,
    encode_cell,
    identity_of,
    link_cell,
    view_cell,
)

TIMES = st.integers(0, 3) | st.integers(0, LAST_INSTANT_MS)
IDS = st.text("ab\x01\x7fé\u07ff\uffff🚗\U0010ffff", min_size=1, max_size=4) | st.text(
    st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=256
)
WHOLE = st.integers(0, LAST_INSTANT_MS)
SPANS = st.builds(Span, WHOLE, WHOLE, st.floats(0, 1), st.integers(0, 1_000), st.integers(0, 1_000))
SEGMENTS = st.lists(st.builds(SegmentSpans, st.text(max_size=5), st.lists(SPANS, min_size=1, max_size=3)), max_size=3)
MEMBERSHIPS = st.builds(Membership, st.integers(1, 2**53), WHOLE, SEGMENTS)
SHARES = st.dictionaries(st.text(max_size=5), st.dictionaries(st.text(max_size=5), st.floats(0, 1), max_size=3), max_size=3)
PROFILES = st.builds(Profile, st.integers(0, 1_000), WHOLE, SHARES)


@given(TIMES, IDS, st.binary(max_size=20))
def test_a_cell_tells_its_view_again(time: int, event_id: str, packed: bytes) -> None:
    cell = view_cell(time, event_id, packed)
    assert (cell.time, cell.event_id, cell.value) == (time, event_id, packed)


@given(TIMES, IDS, TIMES, IDS)
def test_cells_sort_newest_first_by_time_and_event_id(time: int, event_id: str, other_time: int, other_id: str) -> None:
    one, other = view_cell(time, event_id, b"x"), view_cell(other_time, other_id, b"y")
    if (time, event_id) != (other_time, other_id):
        assert (one.qualifier < other.qualifier) == ((time, event_id) > (other_time, other_id))


@pytest.mark.parametrize(
    ("smaller", "greater"), [("a", "ab"), ("a", "a\x01"), ("ab", "b"), ("z", "é"), ("é", "éa"), ("\uffff", "🚗")]
)
def test_an_id_that_begins_another_comes_before_it(smaller: str, greater: str) -> None:
    # newest first, so the greater id's cell has the smaller qualifier
    assert view_cell(7, greater, b"").qualifier < view_cell(7, smaller, b"\xff").qualifier


def test_a_longer_id_never_takes_the_place_of_another_whatever_its_value() -> None:
    # the checksum behind the id must not decide between ids
    qualifiers = [view_cell(7, event_id, bytes([value])).qualifier for event_id in ("ab", "a") for value in range(64)]
    assert max(qualifiers[:64]) < min(qualifiers[64:])


@given(TIMES, IDS, st.binary(max_size=9), st.binary(max_size=9))
def test_copies_share_a_cell_only_when_they_agree(time: int, event_id: str, packed: bytes, other: bytes) -> None:
    one, two = view_cell(time, event_id, packed), view_cell(time, event_id, other)
    assert (one.qualifier == two.qualifier) == (packed == other)
    assert one.event == two.event == view_cell(0, event_id, b"").event


@given(st.integers(0, LAST_INSTANT_MS - 1), IDS)
def test_a_time_alone_bounds_the_cells_of_it_and_before(time: int, event_id: str) -> None:
    bound = view_cell(time, "", b"").qualifier[:8]
    assert view_cell(time, event_id, b"").qualifier >= bound > view_cell(time + 1, event_id, b"").qualifier


@given(MEMBERSHIPS, PROFILES)
def test_membership_and_profile_survive_their_cells(membership: Membership, profile: Profile) -> None:
    assert decode_row("k", encode_cell(membership), encode_cell(profile)) == ProfileRow("k", membership, profile)


def test_the_json_of_a_membership_stays_readable() -> None:
    text = b'{"rule_version":7,"as_of":5,"segments":[{"name":"suv","spans":[[5,9,0.5,4,2]]}]}'
    assert decode_row("k", text, None) == ProfileRow("k", Membership(7, 5, [SegmentSpans("suv", [Span(5, 9, 0.5, 4, 2)])]), None)
    assert encode_cell(Membership(7, 5, [SegmentSpans("suv", [Span(5, 9, 0.5, 4, 2)])])) == text


def test_a_row_that_was_never_written_is_empty() -> None:
    assert decode_row("k", None, None) == ProfileRow("k", None, None)


BAD_TEXT = [
    b'{"rule_version":1,"as_of":1,"segments":[{"name":"\xff","spans":[]}]}',
    b'{"views":1,"last_seen":1,"shares":{"make":{"\xff":1}}}',
]


@pytest.mark.parametrize("instant", [-1, LAST_INSTANT_MS + 1, 2**62])
def test_an_instant_that_no_date_tells_is_damage(instant: int) -> None:
    good, bad = Span(1, 2, 0.5, 1, 1), (Span(instant, instant, 0.5, 1, 1), Span(1, instant, 0.5, 1, 1))
    memberships = [Membership(1, instant, []), *[Membership(1, 1, [SegmentSpans("suv", [good, span])]) for span in bad]]
    for cell in memberships:
        with pytest.raises(RowError, match="a cell can't be read"):
            decode_row("k", encode_cell(cell), None)
    with pytest.raises(RowError, match="a cell can't be read"):
        decode_row("k", None, encode_cell(Profile(1, instant, {})))


@pytest.mark.parametrize("cell", [b"{", b"[]", b"null", b"\xff", b'{"rule_version":1}', b'{"views":"x"}', *BAD_TEXT])
@pytest.mark.parametrize("which", ["membership", "profile"])
def test_a_damaged_cell_names_its_row_shortly_and_is_no_passing_fault(cell: bytes, which: str) -> None:
    with pytest.raises(
        StoreError, match=r"row 1:abcdef01…: a cell can't be read, must be JSON of a membership or profile: "
    ) as caught:
        decode_row("1:abcdef0123456789", cell if which == "membership" else None, cell if which == "profile" else None)
    assert not isinstance(caught.value, StoreUnavailableError)
    assert "23456789" not in str(caught.value)


KEYS = st.text("0123456789abcdef:", min_size=1, max_size=8)
KINDS = st.sampled_from(["identify", "listing_view", "lead"])
IDENTITIES = st.builds(
    Identity,
    st.lists(st.builds(Link, WHOLE, IDS, KEYS, KINDS, st.binary(max_size=9)), max_size=3, unique_by=lambda link: link[:3])
    .map(sorted)
    .map(tuple),
    st.lists(st.builds(Linked, KEYS, st.binary(max_size=9)), max_size=3, unique_by=lambda linked: linked.other)
    .map(sorted)
    .map(tuple),
    st.lists(st.builds(Said, WHOLE, st.booleans()), max_size=3, unique=True).map(sorted).map(tuple),
    st.just(NEVER) | WHOLE,
    st.binary(max_size=9),
)


@given(IDENTITIES)
def test_what_a_row_says_of_its_id_survives_its_cells(identity: Identity) -> None:
    cells = cells_of(identity)
    assert identity_of(cells[::-1]) == identity
    assert len({cell.qualifier for cell in cells}) == len(cells)


def test_links_sort_as_the_first_of_them_wins_and_consents_newest_first() -> None:
    links = [
        Link(time, event_id, user, "lead", b"") for time in (3, 300) for event_id in ("a", "ab", "b") for user in ("1:u", "1:v")
    ]
    assert sorted(map(link_cell, links)) == [link_cell(link) for link in sorted(links)]
    assert consent_cell(Said(9, opted_out=True)).qualifier < consent_cell(Said(8, opted_out=False)).qualifier


@pytest.mark.parametrize("qualifier", [b"", b"x", b"sealed", b"unlinked"])
def test_an_identity_column_of_a_newer_version_is_refused(qualifier: bytes) -> None:
    with pytest.raises(RowError, match="identity column == .*, must be one this version knows: is a newer one writing this table"):
        identity_of([IdentityCell(qualifier, b"", 5)])


def test_a_row_without_a_membership_says_why() -> None:
    for why in ("alias", "opted_out", "no_views"):
        row = decode_row("k", encode_cell(Emptied(why)), b"")  # type: ignore[arg-type]
        assert row == ProfileRow("k", None, None, None, why)  # type: ignore[arg-type]
    with pytest.raises(StoreError, match="a cell can't be read"):
        decode_row("k", b'{"empty":"because"}', b"")
