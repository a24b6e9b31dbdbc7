"""Who is whom and who wants to be profiled: pure functions against brute force."""

from __future__ import annotations

import itertools
import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.identity import (
    EVIDENCE_DAYS,
    FOR_EVER,
    MAX_EVIDENCE,
    MAX_LINKS,
    NEVER,
    Link,
    Linked,
    Said,
    Voice,
    counted,
    counting_from,
    digest_of,
    emptied_until,
    evidence_of,
    links_void_until,
    owning_link,
    telling,
    tombstone_of,
)
from schemas.instants import DAY_MS

LINKS = st.lists(
    st.builds(
        Link,
        st.integers(0, 30).map(lambda place: place * DAY_MS // 2),
        st.sampled_from("ef"),
        st.sampled_from("uvw"),
        st.just("lead"),
        st.just(b""),
    ),
    max_size=12,
)
SAID = st.lists(st.builds(Said, st.integers(0, 6), st.booleans()), max_size=4)
VOICES = st.lists(st.builds(Voice, SAID, st.just(NEVER) | st.integers(0, 6)), min_size=1, max_size=3)
UNLINKED = st.just(NEVER) | st.integers(0, 30).map(lambda place: place * DAY_MS // 2)


@given(LINKS, UNLINKED, st.randoms())
def test_the_first_link_that_is_not_void_owns_whatever_the_order(links: list[Link], unlinked: int, rng: object) -> None:
    valid = [link for link in sorted(links) if link.time > unlinked]
    shuffled = list(links)
    rng.shuffle(shuffled)  # type: ignore[attr-defined]
    first = owning_link(shuffled, unlinked)
    assert first == (valid[0] if valid else None)


@given(LINKS, UNLINKED)
def test_evidence_tells_the_owner_for_every_instant_up_to_which_links_may_become_void(links: list[Link], unlinked: int) -> None:
    newest = max((link.time for link in links), default=0) // DAY_MS
    kept = evidence_of(links, unlinked)
    for day in range(newest - EVIDENCE_DAYS, newest + 2):
        until = max(unlinked, links_void_until(day * DAY_MS) if day >= 0 else NEVER)
        assert owning_link(kept, until) == owning_link(links, until)
    assert evidence_of(kept, unlinked) == kept
    assert len(kept) <= len({(link.other, link.time // DAY_MS) for link in links})


def brute_start(voices: list[Voice]) -> int:
    """The first instant from which on no opt-out holds, tried one by one."""

    def holds(out: Said, of: int, at: int) -> bool:
        backs = [
            said.time
            for number, voice in enumerate(voices)
            for said in voice.said
            if not said.opted_out
            and said.time > out.time
            and (number == of or (said.time >= voice.since and said.time >= voices[of].since))
        ]
        return not any(back <= at for back in backs)

    outs = [(said, number) for number, voice in enumerate(voices) for said in voice.said if said.opted_out]
    if not outs:
        return NEVER
    return next((at for at in range(8) if not any(holds(out, number, at) for out, number in outs)), FOR_EVER)


@given(VOICES)
def test_views_count_from_when_no_opt_out_holds_any_more(voices: list[Voice]) -> None:
    assert counting_from(voices) == brute_start(voices)


@given(VOICES)
def test_whose_voice_comes_first_makes_no_difference(voices: list[Voice]) -> None:
    assert {counting_from(order) for order in itertools.permutations(voices)} == {counting_from(voices)}


@given(VOICES, SAID, st.integers(0, 2))
def test_what_does_not_tell_may_be_left_out_also_before_the_rest_comes(voices: list[Voice], late: list[Said], of: int) -> None:
    kept = [voice._replace(said=telling(voice.said)) for voice in voices]
    assert counting_from(kept) == counting_from(voices)
    of %= len(voices)
    left, whole = ([*each[of].said, *late] for each in (kept, voices))
    assert set(telling(left)) == set(telling(whole))
    assert emptied_until(left) == emptied_until(whole)


def test_thousands_of_consents_are_quickly_told() -> None:
    said = [Said(time, time % 2 == 0) for time in range(20_000)]
    began = time.perf_counter()
    assert counting_from([Voice(said, NEVER)] * 3) == 19_999
    assert time.perf_counter() - began < 1, "in proportion to how many there are"


@settings(max_examples=15)
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 2 * MAX_LINKS)), min_size=MAX_LINKS, max_size=300), st.randoms())
def test_of_too_many_users_the_first_hundred_count_whatever_the_order(seen: list[tuple[int, int]], rng: random.Random) -> None:
    links = [Link(day * DAY_MS, f"e{user}", f"u{user:03}", "lead", b"") for day, user in seen]
    rng.shuffle(links)
    at_once = evidence_of(links)
    bit_by_bit: list[Link] = []
    for link in links:
        bit_by_bit = evidence_of([*bit_by_bit, link])
    first = list(dict.fromkeys(link.other for link in sorted(links)))[:MAX_LINKS]
    assert {link.other for link in at_once} == {link.other for link in bit_by_bit} == set(first)
    assert owning_link(at_once) == owning_link(bit_by_bit) == min(links)
    assert len(at_once) <= MAX_EVIDENCE


@given(SAID)
def test_what_an_opt_out_emptied_never_counts_again(said: list[Said]) -> None:
    until = emptied_until(said)
    assert until == max((each.time for each in said if each.opted_out), default=NEVER)
    assert until < counting_from([Voice(said, NEVER)]) or until == NEVER


@pytest.mark.parametrize(
    ("voices", "start"),
    [
        ([], NEVER),
        ([Voice([Said(3, False)], NEVER)], NEVER),
        ([Voice([Said(3, True)], NEVER)], FOR_EVER),
        ([Voice([Said(3, True), Said(3, False)], NEVER)], FOR_EVER),
        ([Voice([Said(3, True), Said(5, False), Said(4, False)], NEVER)], 4),
        ([Voice([], NEVER), Voice([Said(3, True)], 9)], FOR_EVER),  # the strictest wins at the link
        ([Voice([Said(8, False)], NEVER), Voice([Said(3, True)], 9)], FOR_EVER),  # said before the two were one
        ([Voice([Said(9, False)], NEVER), Voice([Said(3, True)], 9)], 9),
        ([Voice([Said(4, False)], NEVER), Voice([Said(3, True), Said(5, False)], 9)], 5),
    ],
)
def test_consents_of_two_profiles(voices: list[Voice], start: int) -> None:
    assert counting_from(voices) == start


def test_of_a_hundred_and_one_linked_ids_the_same_hundred_count_whatever_the_order() -> None:
    linked = [Linked(f"1:{number:03}", b"") for number in range(MAX_LINKS + 1)]
    assert counted(linked[::-1]) == counted(linked) == linked[:MAX_LINKS]


def test_a_tombstone_has_no_byte_of_the_pseudonym() -> None:
    key = "12:" + "ab" * 32
    tombstone = tombstone_of(key, 5)
    assert (tombstone.digest, tombstone.version, tombstone.time, len(tombstone.digest)) == (digest_of(key), 12, 5, 16)
    assert digest_of(key) != digest_of(key.replace("12:", "13:"))
    assert tombstone.digest.hex() not in key
