"""The keys of the headers: which signs, which verify, and that no text of ours shows a secret."""

from __future__ import annotations

import re
from typing import Any, Final

import pytest

from schemas.errors import ConfigError
from serving.headers_keys import VARIABLE, load_header_keys, parse_header_keys

OLD: Final = "k1:" + "11" * 32
NEW: Final = "k2:" + "22" * 32
KEYS: Final = parse_header_keys(f"{NEW},{OLD}", "keys")


def test_the_first_key_signs_and_all_verify() -> None:
    assert KEYS.active.id == "k2"
    assert {key.id: key.secret for key in KEYS.known.values()} == {"k2": b"\x22" * 32, "k1": b"\x11" * 32}
    assert parse_header_keys(f"\n{NEW}\n{OLD}\n", "keys") == KEYS


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "keys: number of keys == 0, must be between 1 and 16"),
        (" ,\n", "keys: number of keys == 0, must be between 1 and 16"),
        (",".join(f"k{n}:{'5e' * 16}" for n in range(17)), "keys: number of keys == 17, must be between 1 and 16"),
        ("5e" * 16, "keys: key 1 of 1: must be ID:SECRET"),
        (f"k1:{'5e' * 16},{'5e' * 16}:k2", "keys: key 2 of 2: must be ID:SECRET"),
        (f"k1:{'5e' * 16}z", "keys: key 1 of 1: must be ID:SECRET"),
        (f"K1:{'5e' * 16}", "keys: key 1 of 1: must be ID:SECRET"),
        (f":{'5e' * 16}", "keys: key 1 of 1: must be ID:SECRET"),
        (f"k1:{'5e' * 15}", "keys: key 1 of 1: length of the secret == 15 bytes, must be at least 16"),
        (f"k1:{'5e' * 16},k1:{'5e' * 17}", "keys: key 2 of 2: its id stands there already, must be unique"),
    ],
)
def test_keys_that_are_none_are_named_by_place_and_not_shown(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_header_keys(text, "keys")
    assert str(refused.value).startswith(message)
    assert "5e5e" not in str(refused.value)
    assert refused.value.__cause__ is None


def test_secrets_are_not_in_the_text_of_anything() -> None:
    for text in (repr(KEYS), str(KEYS), repr(KEYS.active), f"{KEYS.known}"):
        assert "k2" in text
        assert not re.search(r"2222|x22|\"\"", text)  # as hex, escaped, or as the character 0x22


def test_keys_come_from_the_environment_or_a_file(tmp_path: Any) -> None:
    assert load_header_keys(environ={VARIABLE: f"{NEW},{OLD}"}) == KEYS
    path = tmp_path / "header-keys"
    path.write_text(f"{NEW}\n{OLD}\n")
    assert load_header_keys(str(path), environ={VARIABLE: OLD}) == KEYS
    with pytest.raises(ConfigError, match=f"environment variable {VARIABLE} is not set, must hold"):
        load_header_keys(environ={})
    with pytest.raises(ConfigError, match=re.escape(f"header keys {tmp_path}/none: No such file")):
        load_header_keys(f"{tmp_path}/none")
    path.write_bytes(b"\xff" * 40)
    with pytest.raises(ConfigError, match="must be UTF-8 text"):
        load_header_keys(str(path))
