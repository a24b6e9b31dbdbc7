"""What is taken off a request before anything looks at it: everything under the names of the segment headers.

Header names are folded first, as the loosest of servers would read them. Of ``Signature`` and ``Signature-Input``, fields that
others may use too, only our label's member goes; where that can't be told, the whole field.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Iterable, Mapping
from typing import Any, Final

import http_sf

from serving.headers import LABEL, folded
from serving.headers_fields import SEGMENTS
from serving.signatures import INPUT, SIGNATURE, HeaderRefusedError, Request, members_of

HeaderLines = Iterable[tuple[bytes, bytes]]

MAX_OTHERS_BYTES: Final = 1 << 10  # in each of the two fields
_SHARED: Final = (INPUT.encode(), SIGNATURE.encode())
_DEFAULT_PORTS: Final = {"http": ":80", "https": ":443", "ws": ":80", "wss": ":443"}
_ASCII: Final = "".join(map(chr, range(0x21, 0x7F)))  # visible: stays as it is, per cent signs too


def lines_of(headers: HeaderLines) -> list[tuple[str, str]]:
    """ASGI's headers as text."""
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]


def request_of(scope: Mapping[str, Any]) -> Request:
    """What of an ASGI request is signed, as it was on the wire; bytes that a URL can't have are escaped.

    >>> request_of({"method": "GET", "path": "/a b", "query_string": b"q=1", "headers": [(b"host", b"Search:80")]})
    Request(method='GET', path='/a%20b', query='q=1', authority='search')
    """
    raw = scope.get("raw_path") or urllib.parse.quote(scope["path"]).encode()
    hosts = [value.decode("latin-1").strip() for name, value in scope.get("headers", ()) if name.lower() == b"host"]
    authority = hosts[0].lower().removesuffix(_DEFAULT_PORTS.get(scope.get("scheme", "http"), "")) if len(hosts) == 1 else None
    path, query = (urllib.parse.quote(part, safe=_ASCII) for part in (raw, scope.get("query_string", b"")))
    return Request(scope.get("method", "GET"), path, query, authority)


def stripped(headers: HeaderLines) -> list[tuple[bytes, bytes]]:
    """The headers without ours in any spelling; others' signatures are left, in one line each.

    ``Connection`` loses our names too: it would have the next hop take off what we put on.

    >>> stripped([(b"X_User-Segments", b"suv;s=1.0"), (b"accept", b"*/*")])
    [(b'accept', b'*/*')]
    """
    kept: list[tuple[bytes, bytes]] = []
    shared: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        spelt = name.lower()
        if spelt in _SHARED:
            shared.setdefault(spelt, []).append(value)
        elif spelt == b"connection":
            options = [option for option in value.split(b",") if not _is_ours(option)]
            if options:
                kept.append((name, b",".join(options)))
        elif not _is_ours(name):
            kept.append((name, value))
    others = ((name, _others(name, values)) for name, values in shared.items())
    return [*kept, *((name, value) for name, value in others if value)]


def with_signed(headers: HeaderLines, signed: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    """The stripped headers with ours; our signature joins those of others, so that each field stays one line."""
    ours = {name.encode(): value.encode() for name, value in signed}
    put = [(name, b", ".join((value, ours.pop(name))) if name in _SHARED and name in ours else value) for name, value in headers]
    return [*put, *ours.items()]


def _is_ours(name: bytes) -> bool:
    spelt = folded(name.decode("latin-1"))
    return spelt.startswith(SEGMENTS) or spelt.encode("latin-1") in _SHARED


def _others(name: bytes, values: list[bytes]) -> bytes:
    value = b", ".join(part.strip(b" \t") for part in values)
    if len(value) > MAX_OTHERS_BYTES:
        return b""
    try:
        members = members_of(value.decode("latin-1"), name.decode())
    except HeaderRefusedError:  # no Dictionary, or a label twice: which of it is ours can't be told
        return b""
    members.pop(LABEL, None)
    return http_sf.ser(members).encode() if members else b""
