"""Receipts of deletions as files, and where the key comes from that signs them."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from schemas.errors import ConfigError
from schemas.receipt import SEED_BYTES, fault_in, signed, signing_key
from transforms.whole_files import read_bytes, replace_bytes

KEY_VARIABLE: Final = "FORECOURT_RECEIPT_KEY"


def load_signing_key(store: str) -> Ed25519PrivateKey:
    """The key from the environment, else from the file beside a ``sqlite:`` store, which is made when it isn't there.

    ``ConfigError`` for any other store without a key in the environment.
    """
    text = os.environ.get(KEY_VARIABLE)
    if text:
        return signing_key(text, f"environment variable {KEY_VARIABLE}")
    if not store.startswith("sqlite:///"):
        msg = f"environment variable {KEY_VARIABLE} is not set, must hold the key that signs receipts (try: openssl rand -hex 32)"
        raise ConfigError(msg)
    path = Path(store.removeprefix("sqlite:///") + ".receipt-key")
    try:
        with open(path, "x", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(secrets.token_hex(SEED_BYTES) + "\n")
    except FileExistsError:
        pass
    except OSError as error:
        msg = f"key file {path}: {error.strerror}; set {KEY_VARIABLE} instead"
        raise ConfigError(msg) from error
    return signing_key(path.read_text(), str(path))


def write_receipt(path: str, body: dict[str, Any], key: Ed25519PrivateKey) -> None:
    """Sign and write a receipt."""
    replace_bytes(path, json.dumps(signed(body, key), indent=2).encode() + b"\n")


def check_receipt(path: str, public_key: str | None) -> str | None:
    """What is wrong with the receipt in a file, ``None`` when nothing is; ``ConfigError`` when it can't be read."""
    try:
        receipt = json.loads(read_bytes(path))
    except ValueError:
        return "must be JSON"
    return fault_in(receipt, public_key)


def code_version() -> str:
    """Which code runs: what git says of it, else the package's version."""
    folder = Path(__file__).parents[1]
    if (folder / ".git").exists():
        command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--tags"]
        try:
            told = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
        except (OSError, subprocess.TimeoutExpired):
            told = None
        if told is not None and told.returncode == 0:
            return told.stdout.strip()
    try:
        return version("forecourt")
    except PackageNotFoundError:
        return "unknown"
