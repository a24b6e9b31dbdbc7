"""Pseudonyms, key rings and sealed ids."""

from __future__ import annotations

import hashlib
import hmac
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import ConfigError
from schemas.event import Event
from schemas.pseudonym import PseudonymKey, Pseudonyms, is_pseudonym, opened, pseudonym_of, pseudonymise, ring_of, seal, version_of

OLD, NEW = "an old key of some length", "a new key of some length"
IDS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=80)


@given(IDS)
def test_a_pseudonym_is_the_hmac_and_its_keys_version(raw_id: str) -> None:
    pseudonym = pseudonym_of(PseudonymKey(OLD.encode(), 7), raw_id)
    assert pseudonym == f"7:{hmac.new(OLD.encode(), raw_id.encode(), hashlib.sha256).hexdigest()}"
    assert is_pseudonym(pseudonym)
    assert version_of(pseudonym) == 7


@given(IDS)
def test_a_sealed_id_is_opened_with_its_key_alone(raw_id: str) -> None:
    ring = ring_of(f"2:{NEW}\n1:{OLD}", "t")
    for key in ring.keys:
        sealed = seal(key, raw_id)
        assert opened(ring, sealed) == raw_id
        assert seal(key, raw_id) == sealed, "equal ids give equal bytes"
        assert len(raw_id) < 4 or raw_id.encode() not in sealed
    assert opened(ring_of(f"2:{NEW}", "t"), seal(PseudonymKey(OLD.encode(), 1), raw_id)) is None
    assert opened(ring_of(f"1:{NEW}", "t"), seal(PseudonymKey(OLD.encode(), 1), raw_id)) is None


@given(st.binary(max_size=60))
def test_bytes_that_nobody_sealed_are_no_id(sealed: bytes) -> None:
    assert opened(ring_of(OLD, "t"), sealed) is None
    assert opened(ring_of(OLD, "t"), b"\x00\x00\x01" + sealed) is None


def test_the_first_key_writes_and_the_newest_reads_first() -> None:
    ring = ring_of(f"\n1:{OLD}\n\n 3:{NEW} \n", "t")
    assert (ring.current.version, [key.version for key in ring.keys]) == (1, [3, 1])
    pseudonyms = Pseudonyms(ring)
    assert pseudonyms("u") == pseudonym_of(ring.current, "u")
    assert pseudonyms.names("u") == tuple(pseudonym_of(key, "u") for key in ring.keys)
    assert pseudonyms.opened(pseudonyms.seal("u")) == "u"
    assert ring_of(OLD, "t").current == PseudonymKey(OLD.encode(), 1), "a bare secret is version 1"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "t: length == 0 bytes, must be at least 16"),
        ("\n \n", "t: length == 0 bytes, must be at least 16"),
        ("short", "t: length == 5 bytes, must be at least 16 (try: openssl rand -hex 32)"),
        ("2:short", "t: length == 5 bytes, must be at least 16"),
        (f"1:{OLD}\n1:{NEW}", "t: version 1 is given twice, must be given once"),
        (f"{OLD}\n1:{NEW}", "t: version 1 is given twice, must be given once"),
    ],
)
def test_a_ring_that_is_none_is_told_without_its_secrets(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        ring_of(text, "t")
    assert not any(secret in str(caught.value) for secret in (OLD, NEW, "short"))


def test_a_key_does_not_show_its_secret() -> None:
    assert OLD not in repr(ring_of(OLD, "t")) + str(ring_of(OLD, "t").keys)


def event(**changes: object) -> Event:
    given = {"event_id": "e", "event_type": "identify", "event_time": 5, "user_id": "ann@home", "anonymous_id": "phone@home"}
    rest = {"session_id": "s", "listing_id": None, "packed": b"", "experiment": None, "pseudonymised": False}
    return Event(**(given | rest | changes))  # type: ignore[arg-type]


def test_an_event_with_pseudonyms_has_no_raw_id_and_can_be_opened() -> None:
    pseudonyms = Pseudonyms(ring_of(OLD, "t"))
    before = event(experiment={"unit": "ann@home", "phone@home": ["ann@home", 1]})
    after = pseudonymise(before, pseudonyms)
    assert "@home" not in str(after)
    assert (after.user_id, after.anonymous_id) == (pseudonyms("ann@home"), pseudonyms("phone@home"))
    assert after.experiment == {"unit": after.user_id, after.anonymous_id: [after.user_id, 1]}
    assert after.sealed_user_id is not None
    assert after.sealed_anonymous_id is not None
    assert (pseudonyms.opened(after.sealed_user_id), pseudonyms.opened(after.sealed_anonymous_id)) == ("ann@home", "phone@home")
    assert pseudonymise(after, pseudonyms) == after, "once is enough"
    assert pseudonymise(event(user_id=None), pseudonyms)[-2:] == (None, pseudonyms.seal("phone@home"))
