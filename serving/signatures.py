"""HTTP Message Signatures (RFC 9421) with HMAC-SHA256: what of a request is signed, and as which bytes.

The signature base has a line for each covered component and ends with the signature's own parameters. The result is one member
of the fields ``Signature-Input`` and ``Signature``, under our label; others' members may stand beside it.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import http_sf

from schemas.errors import ForecourtError, shown

ALGORITHM: Final = "hmac-sha256"
INPUT: Final = "signature-input"
SIGNATURE: Final = "signature"
MAX_COMPONENTS: Final = 16
_TEXT: Final = re.compile(r"[\x20-\x7e\t]*", re.ASCII)  # no line ends: a value can't be two lines of the base


class HeaderRefusedError(ForecourtError):
    """The fault of who sent the request: headers that prove nothing. ``reason`` is one of ``serving.headers.REASONS``."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Request(NamedTuple):
    """What of a request can be signed, as it is on the wire: ``query`` is without its ``?``, ``authority`` the host named."""

    method: str
    path: str
    query: str = ""
    authority: str | None = None


class Parameters(NamedTuple):
    """Which components a signature covers, in this order, and what it says of itself: created, keyid and the like."""

    components: tuple[str, ...]
    values: Mapping[str, Any]


_DERIVED: Final[Mapping[str, Callable[[Request], str | None]]] = {
    "@method": lambda request: request.method,
    "@path": lambda request: request.path or "/",
    "@query": lambda request: f"?{request.query}",
    "@authority": lambda request: request.authority and request.authority.lower(),
}
DERIVED: Final = frozenset(_DERIVED)


def input_member(parameters: Parameters) -> str:
    """The parameters as one member of ``Signature-Input``, which is also the last value of the base."""
    member: Any = ([(name, {}) for name in parameters.components], dict(parameters.values))
    return http_sf.ser([member])


def signature_base(parameters: Parameters, request: Request, fields: Mapping[str, str]) -> str:
    """The text that is signed (RFC 9421, 2.5); ``fields`` by lower-case name.

    ``HeaderRefusedError`` for a component that the request lacks, or whose value is no line of visible ASCII.

    >>> print(signature_base(Parameters(("@method", "@query"), {"created": 1}), Request("GET", "/"), {}))
    "@method": GET
    "@query": ?
    "@signature-params": ("@method" "@query");created=1
    """
    lines = [f'"{name}": {_value_of(name, request, fields)}' for name in parameters.components]
    return "\n".join([*lines, f'"@signature-params": {input_member(parameters)}'])


def mac_of(base: str, secret: bytes) -> bytes:
    """The signature of a base."""
    return hmac.digest(secret, base.encode("ascii"), hashlib.sha256)


def members_of(value: str, name: str) -> dict[str, Any]:
    """The members of a Dictionary field; ``HeaderRefusedError`` when it is none, or has a key twice."""
    members: dict[str, Any] = parsed(value, name, "dictionary")
    return members


def parsed(value: str, name: str, kind: str) -> Any:
    """A Structured Field (RFC 9651) as ``http_sf`` gives it; ``HeaderRefusedError`` when it is none, or has a key twice."""

    def refuse(key: str, _: str) -> None:
        raise HeaderRefusedError(reason="malformed", message=f"{name}: {shown(key)} stands there twice, must be unique")

    try:
        return http_sf.parse(value.encode("ascii"), tltype=kind, on_duplicate_key=refuse)
    except ValueError as error:  # also of the encoding; the message would quote the field
        raise HeaderRefusedError(reason="malformed", message=f"{name}: must be a {kind} of RFC 9651, in ASCII") from error


def parameters_of(member: Any) -> Parameters:
    """The parameters in a parsed member of ``Signature-Input``; ``HeaderRefusedError`` when it is no list of plain components."""
    items, values = member if isinstance(member, tuple) else (None, {})
    if not isinstance(items, list) or len(items) > MAX_COMPONENTS:
        raise HeaderRefusedError(reason="malformed", message=f"{INPUT}: must be a list of at most {MAX_COMPONENTS} components")
    if not all(type(name) is str and not flags for name, flags in items):
        raise HeaderRefusedError(reason="malformed", message=f"{INPUT}: components must be texts without parameters")
    names = tuple(name for name, _ in items)
    if len({*names}) != len(names):
        raise HeaderRefusedError(reason="malformed", message=f"{INPUT}: a component stands there twice, must be unique")
    return Parameters(names, values)


def _value_of(name: str, request: Request, fields: Mapping[str, str]) -> str:
    value = _DERIVED[name](request) if name in _DERIVED else fields.get(name)
    if value is None:
        raise HeaderRefusedError(reason="malformed", message=f"covered component {shown(name)}: must be in the request")
    if not _TEXT.fullmatch(value):
        raise HeaderRefusedError(reason="malformed", message=f"covered component {shown(name)}: must be a line of visible ASCII")
    return value if name in _DERIVED else value.strip(" \t")
