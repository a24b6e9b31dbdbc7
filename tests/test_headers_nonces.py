"""The memory of nonces: bounded, and none is taken twice while its signature holds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serving.headers_nonces import Nonces


@given(
    claims=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 40), st.integers(0, 30)), max_size=40), capacity=st.integers(1, 4)
)
def test_no_nonce_is_taken_twice_while_its_signature_holds(claims: list[tuple[int, int, int]], capacity: int) -> None:
    nonces, taken, now = Nonces(capacity), dict[str, int](), 0
    for number, step, validity in claims:
        now += step
        answer = nonces.claim(str(number), now + validity, now)
        assert len(nonces) <= capacity
        if now < taken.get(str(number), -1):
            assert answer == "seen"
        if answer == "new":
            taken[str(number)] = now + validity
