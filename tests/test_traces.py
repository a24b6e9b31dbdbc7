"""Traces of many people are found as those of few are, and nearly as fast."""

from __future__ import annotations

import time
from base64 import b64encode

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.pseudonym import pseudonym_of, seal
from tests.forgotten import RING
from transforms import traces
from transforms.traces import Traces

IDS = ["user-000000001", "user-000000002", "@mail.com", "anna@mail.com", "a b c d e f", "müller-straße", "7", "99"]
FORMS = [form for raw in IDS for form in (raw.encode(), pseudonym_of(RING.current, raw).encode(), seal(RING.current, raw))]
FORMS += [b64encode(seal(RING.current, raw)) for raw in IDS] + [pseudonym_of(RING.current, raw)[2:].encode() for raw in IDS]
NOISE = [b"", b" ", b"-", b"x", b"0", b"f", b'"', b"\0\0\1", b"a" * 70, b'{"user_id": "7"}', b"7", b"user-00000000", b"mail.com"]


def traces_of(ids: list[str]) -> Traces:
    names = {pseudonym_of(RING.current, raw): 5 for raw in ids}
    return Traces(names, dict.fromkeys(ids, 5), [seal(RING.current, raw) for raw in ids])


@settings(max_examples=200)
@given(st.lists(st.lists(st.sampled_from([*FORMS, *NOISE]), max_size=4).map(b"".join) | st.none(), max_size=6), st.integers(0, 2))
def test_what_finds_many_finds_what_the_expressions_find(texts: list[bytes | None], skipped: int) -> None:
    few = traces_of(IDS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(traces, "_PATTERNS_AT_ONCE", 1)
        many = traces_of(IDS)
    column = pa.array(texts, pa.binary())[skipped:]
    assert many.among(column).tolist() == few.among(column).tolist()
    assert many.among(pa.chunked_array([column, column])).tolist() == few.among(column).tolist() * 2
    together = b"".join(text or b"" for text in texts)
    assert (many.found_in(together), many.may_be_in(together)) == (few.found_in(together), few.may_be_in(together))


def test_five_thousand_ids_are_looked_for_in_one_pass() -> None:
    ids = [f"somebody-{number:05}" for number in range(5_000)]
    data = np.random.default_rng(1).bytes(1 << 20).hex().encode()
    search = traces_of(ids)

    def seconds() -> float:
        began = time.thread_time()
        assert not search.found_in(data)
        return time.thread_time() - began

    assert min(seconds() for _ in range(3)) < 0.2, "0.02 s of a processor; an expression for each 64 of them took 0.5 s"
    assert search.found_in(data + pseudonym_of(RING.current, ids[-1]).encode())
