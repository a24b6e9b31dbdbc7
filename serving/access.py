"""Who may ask the gateway for what: bearer API keys by role, of which only digests are kept, each with a rate of its own."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from schemas import safe_yaml
from schemas.errors import ConfigError, RulesError, shown
from schemas.safe_yaml import Node
from serving.access_bucket import Bucket, Limit, full, take

ROLES: Final[Mapping[str, frozenset[str]]] = {
    "gateway": frozenset({"segments", "featured", "events"}),
    "user_control": frozenset({"why", "opt_out", "forget"}),
    "metrics": frozenset({"metrics"}),
}
DEFAULT_LIMIT: Final = Limit(rate_per_s=100.0, burst=200)
MAX_RATE_PER_S: Final = 1e6
MAX_HEADER_CHARS: Final = 512
MAX_KEYS: Final = 1_000
TOKEN_PREFIX: Final = "fc_"  # so that secret scanners know one
_NAME: Final = re.compile(r"[a-z][a-z0-9_-]{0,62}", re.ASCII)
_DIGEST: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_BEARER: Final = re.compile(r"[Bb][Ee][Aa][Rr][Ee][Rr] +([A-Za-z0-9._~+/-]+=*)", re.ASCII)  # RFC 6750, 2.1
_FIELDS: Final = ("name", "role", "sha256", "rate_per_s", "burst")


class Caller(NamedTuple):
    """Who asks, by the name in the access file."""

    name: str
    role: str


class Refused(NamedTuple):
    """Why nobody is let in: missing, oversized, malformed, unknown_key; or rate_limited, for so many whole seconds."""

    reason: str
    retry_after_s: int = 0


class AccessKey(NamedTuple):
    """One line of the access file; ``digest`` is the SHA-256 of the token."""

    caller: Caller
    digest: bytes
    limit: Limit


class Minted(NamedTuple):
    """A new token, to be shown once, and its line for the access file; the ``repr`` doesn't show the token."""

    token: str
    line: str

    def __repr__(self) -> str:
        """Return a text without the token."""
        return f"Minted(…, {self.line!r})"


class Access:
    """The keys in use, and how much each has asked of late. Used in one event loop."""

    def __init__(self, keys: Iterable[AccessKey]) -> None:
        self._keys = {key.digest: key for key in keys}
        self._buckets: dict[bytes, Bucket] = {}

    def authenticate(self, header: str | None, now: int) -> Caller | Refused:
        """Whose key an ``Authorization`` header holds; ``now`` in ms UTC. Counts the request against the key's rate."""
        if not header:
            return Refused("missing")
        if len(header) > MAX_HEADER_CHARS:
            return Refused("oversized")
        found = _BEARER.fullmatch(header)
        if found is None:
            return Refused("malformed")
        # Looked up by its digest: how long that takes tells of the digest only, which nobody can steer towards a known one.
        key = self._keys.get(digest_of(found[1]))
        if key is None:
            return Refused("unknown_key")
        taken = take(self._buckets.get(key.digest) or full(key.limit, now), key.limit, now)
        self._buckets[key.digest] = taken.bucket
        return key.caller if taken.allowed else Refused("rate_limited", taken.retry_after_s)

    def renewed(self, keys: Iterable[AccessKey]) -> Access:
        """The access by another file: a key that stays keeps what it has asked."""
        renewed = Access(keys)
        asked = self._buckets.copy()  # at once: requests go on meanwhile
        renewed._buckets = {digest: bucket for digest, bucket in asked.items() if digest in renewed._keys}
        return renewed


def may(caller: Caller, action: str) -> bool:
    """Whether the caller's role allows the action, one of those in ``ROLES``."""
    return action in ROLES[caller.role]


def digest_of(token: str) -> bytes:
    """What is kept of a token. It has 256 random bits, so one round of SHA-256 is enough."""
    return hashlib.sha256(token.encode("ascii")).digest()


def mint(name: str, role: str, token: str | None = None) -> Minted:
    """A new key; ``ConfigError`` for a name or a role that the access file wouldn't take."""
    _check_name(name, "name")
    if role not in ROLES:
        msg = f"role == {shown(role)}, must be one of {', '.join(ROLES)}"
        raise ConfigError(msg)
    token = token or TOKEN_PREFIX + secrets.token_urlsafe(32)
    # In quotes: YAML would take a digest of digits alone for a number.
    return Minted(token, f'  - {{name: {name}, role: {role}, sha256: "{digest_of(token).hex()}"}}')


def parse_access(text: str | bytes, name: str) -> tuple[AccessKey, ...]:
    """The keys in a YAML text; ``ConfigError`` names file, place and what would be right, no values: one may be a token.

    >>> text = 'keys: [{name: web, role: gateway, sha256: "' + "0a" * 32 + '", burst: 10}]'
    >>> parse_access(text, "access.yaml")[0].caller
    Caller(name='web', role='gateway')
    """
    try:
        root = safe_yaml.load(text, name)
        body = _mapping(root, "access", ("keys",))
        if "keys" not in body or not isinstance(body["keys"].value, list) or not 0 < len(body["keys"].value) <= MAX_KEYS:
            msg = f"{root.place}: keys must be a list of 1 to {MAX_KEYS} keys"
            raise ConfigError(msg)
        keys = [_key(node, f"keys[{index}]") for index, node in enumerate(body["keys"].value)]
    except RulesError as error:
        raise ConfigError(str(error)) from error
    for field, values in (("name", [key.caller.name for key in keys]), ("sha256", [key.digest for key in keys])):
        if twice := next((place for place, value in enumerate(values) if value in values[:place]), 0):
            msg = f"{body['keys'].value[twice].place}: keys[{twice}].{field} stands there already, must be unique"
            raise ConfigError(msg)
    return tuple(keys)


def _key(node: Node, path: str) -> AccessKey:
    body = _mapping(node, path, _FIELDS)
    for key in ("name", "role", "sha256"):
        if key not in body:
            msg = f"{node.place}: {path}.{key} is missing, must be given"
            raise ConfigError(msg)
    name, role, digest = (body[key].value for key in ("name", "role", "sha256"))
    _check_name(name, f"{body['name'].place}: {path}.name")
    if not isinstance(role, str) or role not in ROLES:
        msg = f"{body['role'].place}: {path}.role must be one of {', '.join(ROLES)}"
        raise ConfigError(msg)
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        msg = f"{body['sha256'].place}: {path}.sha256 must be 64 lower-case hex digits in quotes, the SHA-256 of the token"
        raise ConfigError(msg)
    rate = _number(body.get("rate_per_s"), f"{path}.rate_per_s", DEFAULT_LIMIT.rate_per_s)
    # A rate of its own brings a burst of two seconds, unless that is given too.
    burst = _number(body.get("burst"), f"{path}.burst", max(1.0, 2 * rate // 1))
    if burst < 1 or burst != int(burst):
        msg = f"{body['burst'].place}: {path}.burst == {burst:g}, must be a whole number, at least 1"
        raise ConfigError(msg)
    return AccessKey(Caller(str(name), role), bytes.fromhex(digest), Limit(rate, int(burst)))


def _check_name(name: Any, path: str) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        msg = f"{path} must be of lower-case letters, digits, _ and -, at most 63 characters, and begin with a letter"
        raise ConfigError(msg)


def _mapping(node: Node, path: str, keys: tuple[str, ...]) -> dict[str, Node]:
    if not isinstance(node.value, dict):
        msg = f"{node.place}: {path} must be a mapping with the keys {', '.join(keys)}"
        raise ConfigError(msg)
    for key, child in node.value.items():
        if key not in keys:
            msg = f"{child.place}: {path} must have no keys but {', '.join(keys)}"
            raise ConfigError(msg)
    return node.value


def _number(node: Node | None, path: str, default: float) -> float:
    if node is None:
        return default
    value = node.value
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= MAX_RATE_PER_S:
        msg = f"{node.place}: {path} must be a number above 0, at most {MAX_RATE_PER_S:.0f}"
        raise ConfigError(msg)
    return float(value)
