"""What all of the gateway's routes share: answers and faults as JSON, bodies and ids checked."""

from __future__ import annotations

import re
import urllib.parse
from typing import Any, Final

import falcon
import falcon.asgi
import msgspec

from schemas.event import MAX_ID_BYTES, MAX_MESSAGE_BYTES
from serving.messages import Fault, FaultAnswer

JSON: Final = "application/json"
_BAD_ESCAPE: Final = re.compile("%(?![0-9A-Fa-f]{2})")
_ENCODE: Final = msgspec.json.Encoder().encode


def answer(resp: falcon.asgi.Response, body: Any, status: int = 200) -> None:
    """Answer with JSON, which nobody in between keeps: it is of one person, and of this moment."""
    resp.status, resp.content_type, resp.data = status, JSON, _ENCODE(body)
    resp.set_header("Cache-Control", "no-store")


def fault_of(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> falcon.HTTPError:
    """A fault to raise, as it is told."""
    return falcon.HTTPError(status, title=code, description=message, headers=headers)


def fault_bytes(code: str, message: str) -> bytes:
    """A fault as it is told, as JSON."""
    return _ENCODE(FaultAnswer(Fault(code, message)))


async def body_of(req: falcon.asgi.Request) -> bytes:
    """The body, of at most 64 KiB."""
    length = req.content_length or 0
    body = b"" if length > MAX_MESSAGE_BYTES else await req.stream.read(MAX_MESSAGE_BYTES + 1)
    if length > MAX_MESSAGE_BYTES or len(body) > MAX_MESSAGE_BYTES:
        raise fault_of(413, "too_large", f"body, must be at most {MAX_MESSAGE_BYTES} bytes")
    return bytes(body)


def checked_id(value: str, name: str) -> str:
    """The id, if it can be one; the fault doesn't show it."""
    if not 0 < len(value) <= MAX_ID_BYTES or any(character < " " or "\x7f" <= character <= "\x9f" for character in value):
        raise fault_of(400, "bad_id", f"{name}, must be 1 to {MAX_ID_BYTES} bytes of UTF-8 without control characters")
    if len(value.encode(errors="surrogatepass")) > MAX_ID_BYTES:
        raise fault_of(422, "bad_id", f"{name}, must be at most {MAX_ID_BYTES} bytes of UTF-8")
    return value


def id_in_path(segment: str) -> str:
    """The id that a segment of the raw path stands for."""
    return checked_id(_decoded(segment, "id"), "id")


def anonymous_id_of(req: falcon.asgi.Request) -> str | None:
    """The browser that a query names."""
    parts = [part.partition("=") for part in req.query_string.split("&")]
    found = [value for name, _, value in parts if urllib.parse.unquote_plus(name) == "anonymous_id"]
    if len(found) > 1:
        raise fault_of(400, "bad_id", "anonymous_id, must be given once")
    return checked_id(_decoded(found[0].replace("+", " "), "anonymous_id"), "anonymous_id") if found else None


def _decoded(text: str, name: str) -> str:
    """The text behind a percent-encoded one. What isn't UTF-8 is refused: with marks in place of bytes it would be another's id."""
    try:
        if not _BAD_ESCAPE.search(text):
            return urllib.parse.unquote(text, errors="strict")
    except UnicodeDecodeError:
        pass  # told below
    raise fault_of(400, "bad_id", f"{name}, must be percent-encoded UTF-8")
