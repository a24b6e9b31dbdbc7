"""Receipts: signed as they are, and no other way."""

from __future__ import annotations

import copy
import json
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pipelines.forget import run
from pipelines.receipts import KEY_VARIABLE, code_version, load_signing_key, write_receipt
from schemas.errors import ConfigError
from schemas.receipt import fault_in, signed, signing_key

MINE = Ed25519PrivateKey.from_private_bytes(b"m" * 32)
OTHER = Ed25519PrivateKey.from_private_bytes(b"o" * 32)
BODY = {"people": 1, "deleted": {"events": 3}, "clean": True}


def public(key: Ed25519PrivateKey) -> str:
    return key.public_key().public_bytes_raw().hex()


def test_a_receipt_is_good_by_its_own_key_and_no_other() -> None:
    receipt = json.loads(json.dumps(signed(BODY, MINE)))
    assert fault_in(receipt) is None
    assert fault_in(receipt, public(MINE).upper()) is None
    assert fault_in(receipt, public(OTHER)) == "was signed with another key"
    with pytest.raises(ConfigError, match=r"--public-key: length == 2, must be 64 hex digits"):
        fault_in(receipt, "ab")


@pytest.mark.parametrize("path", [("people",), ("deleted", "events"), ("clean",), ("format",), ("key_id",)])
def test_whatever_is_changed_is_noticed(path: tuple[str, ...]) -> None:
    receipt = copy.deepcopy(signed(BODY, MINE))
    inner = receipt["receipt"]
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = "changed" if isinstance(inner[path[-1]], str) else 99
    assert fault_in(receipt) is not None


def test_a_receipt_signed_anew_by_somebody_else_is_not_mine() -> None:
    forged = signed({**BODY, "clean": False}, OTHER)
    assert fault_in(forged) is None, "without a key to compare with it says only that it is whole"
    assert fault_in(forged, public(MINE)) == "was signed with another key"
    mixed = {**forged, "public_key": public(MINE)}
    assert fault_in(mixed, public(MINE)) is not None


@pytest.mark.parametrize("nonsense", [None, [], {}, {"receipt": 1, "public_key": "x", "signature": ""}, "text"])
def test_nonsense_is_no_receipt(nonsense: object) -> None:
    assert fault_in(nonsense) is not None


def test_the_key_is_made_beside_a_sqlite_store_for_its_owner_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    made = load_signing_key(f"sqlite:///{tmp_path}/s.db")
    assert public(load_signing_key(f"sqlite:///{tmp_path}/s.db")) == public(made)
    assert stat.S_IMODE((tmp_path / "s.db.receipt-key").stat().st_mode) == 0o600
    with pytest.raises(ConfigError, match=f"environment variable {KEY_VARIABLE} is not set, must hold the key that signs"):
        load_signing_key("bigtable://p/i/t")
    monkeypatch.setenv(KEY_VARIABLE, "6d" * 32)
    assert public(load_signing_key("bigtable://p/i/t")) == public(MINE)
    with pytest.raises(ConfigError, match=r"here: length == 5, must be 64 hex digits"):
        signing_key("short", "here")


def test_the_command_checks_receipts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "r.json"
    write_receipt(str(path), BODY, MINE)
    assert run(["--check", str(path)]) == 0
    assert run(["--check", str(path), "--public-key", public(MINE), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["good"] is True
    assert run(["--check", str(path), "--public-key", public(OTHER)]) == 1
    path.write_text(path.read_text().replace('"people": 1', '"people": 2'))
    assert run(["--check", str(path)]) == 1
    assert "was changed since it was signed" in capsys.readouterr().err
    path.write_text("nonsense")
    assert run(["--check", str(path)]) == 1
    with pytest.raises(ConfigError, match="must be readable"):
        run(["--check", str(tmp_path / "nowhere")])


def test_the_code_says_its_version() -> None:
    assert code_version() not in ("", "unknown")
