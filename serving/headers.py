"""A user's segments on the way from the gateway to the search service: signed for one request, and verified once.

The signature (RFC 9421, HMAC-SHA256, 60 seconds) covers both fields and the request they travel with, so they can't be moved
to another. Everything is bounded before it is parsed, and the fields are read only once their signature has held.
"""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

import http_sf

from schemas.errors import ConfigError, shown
from schemas.instants import SECOND_MS
from serving.headers_fields import META, SEGMENTS, UserSegments, fields_of, parse_fields
from serving.headers_keys import HeaderKeys
from serving.headers_nonces import Claim
from serving.reader import SegmentsRead
from serving.signatures import (
    ALGORITHM,
    DERIVED,
    INPUT,
    SIGNATURE,
    HeaderRefusedError,
    Parameters,
    Request,
    input_member,
    mac_of,
    members_of,
    parameters_of,
    signature_base,
)

LABEL: Final = "forecourt"
TAG: Final = "forecourt-segments"
VALIDITY_S: Final = 60
MAX_SKEW_S: Final = 5
MAX_BYTES: Final = 8 << 10
MAX_NONCE_CHARS: Final = 64
NAMES: Final = (SEGMENTS, META, INPUT, SIGNATURE)
# No @authority: a hop inside is free to name the host it goes to.
DEFAULT_COVERED: Final = ("@method", "@path", "@query", SEGMENTS, META)
REASONS: Final = {
    "missing": "the headers or our signature aren't there",
    "duplicate_header": "one of them stands there twice, or in another spelling",
    "oversized": f"together they exceed {MAX_BYTES} bytes, or there are over 500 segments",
    "malformed": "they can't be read, or the signature is none of ours",
    "not_covered": "the signature doesn't cover what it must",
    "unknown_key": "the key's id is none of ours",
    "bad_signature": "the signature is not that of this request and these headers",
    "expired": f"it is over {VALIDITY_S} seconds old",
    "from_the_future": f"it is dated over {MAX_SKEW_S} seconds ahead",
    "replayed": "it was used before",
    "memory_full": "too many signatures are remembered to take in another",
    "memory_fault": "whether it was used before can't be told: what remembers that has failed",
}
_FIELD: Final = re.compile(r"[a-z][a-z0-9-]*", re.ASCII)
_SPELT: Final = re.compile(r"[^a-z0-9]")
_PARAMETERS: Final[Mapping[str, type]] = {"created": int, "expires": int, "keyid": str, "nonce": str, "alg": str, "tag": str}


class NonceMemory(Protocol):
    """What knows the signatures that were used: ``Nonces``, or ``SharedNonces`` for several processes."""

    def claim(self, nonce: str, until: int, now: int) -> Claim:
        """Take in a nonce until then (ms UTC), and say whether it was new; whatever it raises refuses the signature."""


def new_nonce() -> str:
    """128 random bits as text: what makes a signature hold for one request."""
    return secrets.token_urlsafe(16)


def checked_covered(covered: Sequence[str]) -> tuple[str, ...]:
    """The components to cover, both segment fields and something of the request among them, else ``ConfigError``."""
    names = tuple(covered)
    odd = [name for name in names if name not in DERIVED and not _FIELD.fullmatch(name) or name in (INPUT, SIGNATURE)]
    if odd or len({*names}) != len(names) or not {SEGMENTS, META} <= {*names} or not DERIVED & {*names}:
        some = ", ".join(sorted(DERIVED))
        msg = f"covered == {shown(names, 200)}, must be {SEGMENTS}, {META}, at least one of {some}, and any fields, each once"
        raise ConfigError(msg)
    return names


def folded(name: str) -> str:
    """A header's name as the loosest of servers reads it: ``X_User_Segments`` and ``x-user.segments`` are one.

    >>> folded("X_User.Segments ")
    'x-user-segments'
    """
    return _SPELT.sub("-", name.strip().lower())


def sign(
    read: SegmentsRead,
    request: Request,
    keys: HeaderKeys,
    *,
    now: int,
    nonce: str,
    covered: Sequence[str] = DEFAULT_COVERED,
    fields: Mapping[str, str] | None = None,
) -> list[tuple[str, str]]:
    """The four headers, by lower-case name, of this user on this request; ``now`` in ms UTC, a ``nonce`` for one use.

    ``fields`` are the request's own headers that ``covered`` names. The signature's two headers have our member alone.
    """
    created = now // SECOND_MS
    ours = fields_of(read)
    values = {"created": created, "expires": created + VALIDITY_S, "keyid": keys.active.id, "nonce": nonce}
    parameters = Parameters(checked_covered(covered), values | {"alg": ALGORITHM, "tag": TAG})
    mac = mac_of(signature_base(parameters, request, {**(fields or {}), **ours}), keys.active.secret)
    return [*ours.items(), (INPUT, f"{LABEL}={input_member(parameters)}"), (SIGNATURE, http_sf.ser({LABEL: mac}))]


def verify(
    headers: Iterable[tuple[str, str]],
    request: Request,
    keys: HeaderKeys,
    *,
    now: int,
    nonces: NonceMemory | None,
    covered: Sequence[str] = DEFAULT_COVERED,
) -> UserSegments:
    """What the headers say of the user, if the gateway has signed just that for this request; else ``HeaderRefusedError``.

    ``covered`` is what a signature must cover at least. ``nonces`` remembers those used; ``None`` leaves that to the caller.
    """
    headers = list(headers)
    ours = _ours(headers)
    parameters, mac = _signature(ours)
    values = parameters.values
    if lacking := [name for name in checked_covered(covered) if name not in parameters.components]:
        raise HeaderRefusedError(reason="not_covered", message=f"{INPUT}: {lacking[0]} is not covered, must be")
    key = keys.known.get(values["keyid"])
    if key is None:
        raise HeaderRefusedError(reason="unknown_key", message=f"keyid == {shown(values['keyid'])}, must be the id of a key in use")
    fields = {name: _line(headers, name) for name in parameters.components if name not in DERIVED and name not in ours}
    base = signature_base(parameters, request, {**fields, **ours})
    if not hmac.compare_digest(mac, mac_of(base, key.secret)):
        raise HeaderRefusedError(reason="bad_signature", message="signature: must be that of this request and these headers")
    _check_time(values["created"], values["expires"], now)
    said = parse_fields(ours[SEGMENTS], ours[META])
    claim = "new" if nonces is None else _claimed(nonces, values["nonce"], values["expires"] * SECOND_MS, now)
    if claim == "seen":
        raise HeaderRefusedError(reason="replayed", message="nonce: was used before, must be new")
    if claim == "full":
        raise HeaderRefusedError(reason="memory_full", message="nonce: can't be remembered, too many were used within a minute")
    return said


def _ours(headers: Sequence[tuple[str, str]]) -> dict[str, str]:
    found = [(name, folded(name), value) for name, value in headers]
    mine = [each for each in found if each[1] in NAMES or each[1].startswith(SEGMENTS)]
    size = sum(len(name) + len(value) for name, _, value in mine)
    if size > MAX_BYTES:
        raise HeaderRefusedError(reason="oversized", message=f"size of the headers == {size} bytes, must be at most {MAX_BYTES}")
    ours = {name.lower(): value for name, _, value in mine}
    if len(mine) != len(ours) or not {*ours} <= {*NAMES}:
        raise HeaderRefusedError(reason="duplicate_header", message=f"headers: must be one each of {', '.join(NAMES)}, so spelt")
    if lacking := [name for name in NAMES if name not in ours]:
        raise HeaderRefusedError(reason="missing", message=f"header {lacking[0]} is missing, must be there")
    return ours


def _signature(ours: Mapping[str, str]) -> tuple[Parameters, bytes]:
    inputs, signatures = members_of(ours[INPUT], INPUT), members_of(ours[SIGNATURE], SIGNATURE)
    if LABEL not in inputs or LABEL not in signatures:
        raise HeaderRefusedError(reason="missing", message=f"signature {LABEL} is missing, must be in {INPUT} and {SIGNATURE}")
    parameters = parameters_of(inputs[LABEL])
    _check_values(parameters.values)
    mac, flags = signatures[LABEL]
    if type(mac) is not bytes or flags or http_sf.ser({LABEL: mac}) not in ours[SIGNATURE]:
        raise HeaderRefusedError(reason="malformed", message=f"{SIGNATURE}: must be bytes in base64, padded, without parameters")
    return parameters, mac


def _check_values(values: Mapping[str, Any]) -> None:
    if {key: type(value) for key, value in values.items()} != _PARAMETERS:
        raise HeaderRefusedError(reason="malformed", message=f"{INPUT}: the parameters must be {', '.join(_PARAMETERS)}")
    if values["alg"] != ALGORITHM or values["tag"] != TAG:
        raise HeaderRefusedError(reason="malformed", message=f"{INPUT}: alg must be {ALGORITHM}, tag must be {TAG}")
    if not 0 < len(values["nonce"]) <= MAX_NONCE_CHARS:
        reason, message = "malformed", f"{INPUT}: length of nonce == {len(values['nonce'])}, must be 1 to {MAX_NONCE_CHARS}"
        raise HeaderRefusedError(reason, message)
    if not 0 < values["expires"] - values["created"] <= VALIDITY_S:
        reason, message = "malformed", f"{INPUT}: expires must be after created, by at most {VALIDITY_S} seconds"
        raise HeaderRefusedError(reason, message)


def _check_time(created: int, expires: int, now: int) -> None:
    if now >= expires * SECOND_MS:
        raise HeaderRefusedError(reason="expired", message=f"expires == {expires}, must be after now == {now // SECOND_MS}")
    if created * SECOND_MS > now + MAX_SKEW_S * SECOND_MS:
        reason, message = "from_the_future", f"created == {created}, must be at most {MAX_SKEW_S} s after now == {now // SECOND_MS}"
        raise HeaderRefusedError(reason, message)


def _claimed(nonces: NonceMemory, nonce: str, until: int, now: int) -> Claim:
    try:
        return nonces.claim(nonce, until, now)
    except Exception as error:
        message = f"nonce: {type(error).__name__} of the memory of those that were used: {error}"
        raise HeaderRefusedError(reason="memory_fault", message=message) from error


def _line(headers: Sequence[tuple[str, str]], name: str) -> str:
    lines = [value for each, value in headers if each.lower() == name]
    if len(lines) != 1:
        raise HeaderRefusedError(reason="malformed", message=f"covered header {shown(name)}: must be there once")
    return lines[0]
