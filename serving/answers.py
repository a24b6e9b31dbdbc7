"""What all of the gateway's routes share: answers and faults as JSON, bodies and ids checked."""

from __future__ import annotations

from typing import Any, Final

import falcon
import falcon.asgi
import msgspec

from schemas.event import MAX_ID_BYTES, MAX_MESSAGE_BYTES

JSON: Final = "application/json"
_ENCODE: Final = msgspec.json.Encoder().encode


def answer(resp: falcon.asgi.Response, body: Any, status: int = 200) -> None:
    """Answer with JSON."""
    resp.status, resp.content_type, resp.data = status, JSON, _ENCODE(body)


def fault_of(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> falcon.HTTPError:
    """A fault to raise, as it is told."""
    return falcon.HTTPError(status, title=code, description=message, headers=headers)


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


def anonymous_id_of(req: falcon.asgi.Request) -> str | None:
    """The browser that a query names."""
    found = req.get_param("anonymous_id")
    return None if found is None else checked_id(found, "anonymous_id")
