"""Pseudonym keys in Google Secret Manager: every enabled version of a secret is a key, under the version's number.

The alias ``current`` says which one writes; without it the newest does. Google's library is imported only when it is needed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final, NamedTuple, Protocol

from schemas.errors import ConfigError
from schemas.pseudonym import KeyRing, ring_of

DEADLINE_S: Final = 10.0
CURRENT: Final = "current"
_URI: Final = re.compile(r"secret-manager://(projects/[^/\s]+/secrets/[\w-]+)", re.ASCII)


class Secrets(Protocol):
    """The calls of Google's ``SecretManagerServiceClient`` that are made here."""

    def get_secret(self, *, name: str, timeout: float) -> Any:
        """The secret's description, with its aliases."""

    def list_secret_versions(self, request: dict[str, str], *, timeout: float) -> Iterable[Any]:
        """Its versions."""

    def access_secret_version(self, *, name: str, timeout: float) -> Any:
        """What one of them holds."""


class _Library(NamedTuple):
    client: Secrets
    faults: tuple[type[Exception], ...]


def secret_ring(uri: str, client: Secrets | None = None) -> KeyRing:
    """The keys in the secret ``secret-manager://projects/P/secrets/S``, read with Google's client where no other is given.

    ``ConfigError`` when the library is missing, a call isn't answered within ten seconds, or is refused, or there is no usable key.
    """
    found = _URI.fullmatch(uri)
    if found is None:
        msg = "FORECOURT_PSEUDONYM_KEY == secret-manager://…, must be secret-manager://projects/PROJECT/secrets/SECRET"
        raise ConfigError(msg)
    name = found[1]
    library = _library(name, client)
    try:
        return _ring_in(name, library.client)
    except library.faults as fault:
        reason = type(fault).__name__  # its text may hold what was asked for, and in which words
        msg = f"secret {name} must be there, and readable for this account within {DEADLINE_S:g} s a call: {reason}"
        raise ConfigError(msg) from None


def _ring_in(name: str, client: Secrets) -> KeyRing:
    aliases = dict(client.get_secret(name=name, timeout=DEADLINE_S).version_aliases)
    listed = client.list_secret_versions({"parent": name, "filter": "state:ENABLED"}, timeout=DEADLINE_S)
    versions = sorted((int(version.name.rpartition("/")[2]) for version in listed), reverse=True)
    if not versions:
        msg = f"secret {name} has no enabled version, must have one a key"
        raise ConfigError(msg)
    current = int(aliases.get(CURRENT, versions[0]))
    if current not in versions:
        msg = f"secret {name}: alias {CURRENT} == version {current}, must be one that is enabled: {', '.join(map(str, versions))}"
        raise ConfigError(msg)
    versions.sort(key=lambda version: version != current)
    return ring_of("\n".join(f"{version}:{_secret_in(name, version, client)}" for version in versions), f"secret {name}")


def _secret_in(name: str, version: int, client: Secrets) -> str:
    where = f"{name}/versions/{version}"
    data: bytes = client.access_secret_version(name=where, timeout=DEADLINE_S).payload.data
    try:
        text = data.decode().strip()
    except UnicodeDecodeError:
        text = ""
    if not text or len(text.split()) > 1:
        msg = f"secret {where} must be one line of text (try: openssl rand -hex 32)"
        raise ConfigError(msg)
    return text


def _library(name: str, client: Secrets | None) -> _Library:
    try:
        from google.api_core import exceptions
        from google.auth.exceptions import GoogleAuthError
        from google.cloud import secretmanager
    except ImportError:
        msg = f"secret {name} needs a library that isn't installed: pip install google-cloud-secret-manager"
        raise ConfigError(msg) from None
    faults = (exceptions.GoogleAPIError, GoogleAuthError)
    if client is not None:
        return _Library(client, faults)
    try:
        return _Library(secretmanager.SecretManagerServiceClient(), faults)
    except GoogleAuthError as fault:
        msg = f"secret {name}: {str(fault).splitlines()[0]}"
        raise ConfigError(msg) from None
