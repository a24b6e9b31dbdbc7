"""Where pseudonym keys come from, how a file of them changes, and the archive under a newer key."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import google.cloud
import pyarrow as pa
import pytest
from google.api_core import exceptions

import forecourt
from pipelines import keys
from rules import CATALOGUE_PATH
from schemas.errors import ConfigError
from schemas.event import Event
from schemas.identity import Tombstone, tombstone_of
from schemas.instants import DAY_MS, clock_ms, parse_instant
from schemas.ledger import OPT_OUT, Entry, entries_in, entry_of_tombstone
from schemas.profile_row import view_cell
from schemas.pseudonym import Pseudonyms, pseudonymise, ring_of
from serving.keys import FILE_VARIABLE, KEY_VARIABLE, load_ring
from serving.keys_file import replace_file, text_of
from serving.keys_secret_manager import secret_ring
from serving.store import Store, open_store
from tests.test_moving import NEW, NEW_FIRST, OLD, ONLY_NEW, ONLY_OLD, contents, event_of, streamed
from transforms.ageing import old_dates, remove_date
from transforms.archive import Received, Waiting, write_archive
from transforms.archive_files import parts_of, read_archive
from transforms.key_use import KeyUse, key_uses
from transforms.ledger import change_ledger, read_ledger, with_entries
from transforms.moving_archive import ArchiveMoved, rotate_archive, versions_in
from transforms.rules_file import load_catalogue

CATALOGUE: Final = load_catalogue(CATALOGUE_PATH)
SECRET: Final = "a secret that no message may show"
URI: Final = "secret-manager://projects/p/secrets/s"
NOON: Final = parse_instant("2026-01-05T12:00:00Z")

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def no_keys_around(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (KEY_VARIABLE, FILE_VARIABLE):
        monkeypatch.delenv(name, raising=False)


# --- where they come from ------------------------------------------------------------------------------------------------


def test_the_environment_holds_a_ring_whose_first_key_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, f"{OLD}\n{NEW}\n")
    ring = load_ring("bigtable://p/i/t")
    assert (ring.current.version, [key.version for key in ring.keys]) == (1, [2, 1])


def test_a_file_that_the_environment_names_holds_a_ring(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f"{NEW}\n{OLD}\n")
    monkeypatch.setenv(FILE_VARIABLE, str(tmp_path / "keys"))
    assert load_ring("bigtable://p/i/t") == ring_of(f"{NEW}\n{OLD}", "tests")


def test_a_local_store_gets_a_key_file_for_its_owner_alone(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/store.db"
    ring = load_ring(store)
    assert load_ring(store) == ring
    assert stat.S_IMODE((tmp_path / "store.db.key").stat().st_mode) == 0o600


def test_two_sources_at_once_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(KEY_VARIABLE, SECRET)
    monkeypatch.setenv(FILE_VARIABLE, str(tmp_path / "keys"))
    with pytest.raises(ConfigError, match="both set, one of them must be"):
        load_ring("sqlite:///s.db")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "must be readable: No such file"),
        (b"", "must be at least 16"),
        (f"1:{SECRET}\n1:{SECRET}".encode(), "version 1 is given twice"),
        (SECRET.encode() + b"\xff", "must be text"),
        (b"\0" * 65, "must be text; if it has been replaced just now, try again"),
        (SECRET[:12].encode(), "length == 12 bytes, must be at least 16"),
    ],
    ids=range(6),
)
def test_a_file_of_no_use_is_told_without_a_byte_of_it(
    data: bytes | None, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if data is not None:
        (tmp_path / "keys").write_bytes(data)
    monkeypatch.setenv(FILE_VARIABLE, str(tmp_path / "keys"))
    with pytest.raises(ConfigError, match=message) as fault:
        load_ring("")
    assert SECRET[:8] not in str(fault.value)
    assert fault.value.__cause__ is None or SECRET[:8] not in str(fault.value.__cause__)


def test_no_repr_shows_a_secret() -> None:
    ring = ring_of(f"1:{SECRET}", "tests")
    assert SECRET not in f"{ring!r} {ring.current!r} {ring.keys!r} {Pseudonyms(ring)!r}"


# --- Secret Manager: a stub of Google's client, for no cloud is at hand here --------------------------------------------------


class Cloud:
    """``SecretManagerServiceClient`` as far as it is called, with one secret."""

    def __init__(self, secrets: dict[int, bytes], aliases: dict[str, int] | None = None, fault: Exception | None = None) -> None:
        self.secrets, self.aliases, self.fault, self.timeouts = secrets, aliases or {}, fault, list[float]()

    def get_secret(self, *, name: str, timeout: float) -> Any:
        assert name == "projects/p/secrets/s"
        self.timeouts.append(timeout)
        return SimpleNamespace(version_aliases=self.aliases)

    def list_secret_versions(self, request: dict[str, str], *, timeout: float) -> Iterator[Any]:
        assert request == {"parent": "projects/p/secrets/s", "filter": "state:ENABLED"}
        self.timeouts.append(timeout)
        return iter([SimpleNamespace(name=f"projects/123/secrets/s/versions/{version}") for version in self.secrets])

    def access_secret_version(self, *, name: str, timeout: float) -> Any:
        self.timeouts.append(timeout)
        if self.fault is not None:
            raise self.fault
        return SimpleNamespace(payload=SimpleNamespace(data=self.secrets[int(name.rpartition("/")[2])]))


def test_every_enabled_version_is_a_key_and_the_newest_writes() -> None:
    ring = secret_ring(URI, Cloud({3: b"k" * 32 + b"\n", 11: b"l" * 32}))
    assert (ring.current.version, [key.version for key in ring.keys]) == (11, [11, 3])
    assert ring.keys[1].secret == b"k" * 32


def test_the_alias_current_says_which_one_writes() -> None:
    cloud = Cloud({1: b"k" * 32, 2: b"l" * 32}, {"current": 1})
    assert secret_ring(URI, cloud).current.version == 1
    assert set(cloud.timeouts) == {10.0}, "no call without a deadline"


@pytest.mark.parametrize(
    ("cloud", "message"),
    [
        (Cloud({}), "has no enabled version"),
        (Cloud({2: b"k" * 32}, {"current": 1}), "alias current == version 1, must be one that is enabled: 2"),
        (Cloud({1: b"short"}), "length == 5 bytes"),
        (Cloud({1: SECRET.encode()}), "must be one line of text"),
        (Cloud({1: b"\xff" * 32}), "must be one line of text"),
        (Cloud({1: b"k" * 32}, fault=exceptions.PermissionDenied(SECRET)), "PermissionDenied"),
        (Cloud({1: b"k" * 32}, fault=exceptions.DeadlineExceeded(SECRET)), "within 10 s a call: DeadlineExceeded"),
    ],
)
def test_a_secret_of_no_use_is_told_without_a_byte_of_it(cloud: Cloud, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as fault:
        secret_ring(URI, cloud)
    assert SECRET not in str(fault.value)
    assert fault.value.__suppress_context__ or fault.value.__context__ is None


def test_a_uri_that_names_no_secret_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "secret-manager://projects/p")
    with pytest.raises(ConfigError, match="must be secret-manager://projects/PROJECT/secrets/SECRET"):
        load_ring("bigtable://p/i/t")


def test_a_library_that_is_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(google.cloud, "secretmanager", raising=False)
    monkeypatch.setitem(sys.modules, "google.cloud.secretmanager", None)
    monkeypatch.setenv(KEY_VARIABLE, URI)
    with pytest.raises(ConfigError, match="pip install google-cloud-secret-manager"):
        load_ring("bigtable://p/i/t")


def test_no_account_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    monkeypatch.setenv(KEY_VARIABLE, URI)
    with pytest.raises(ConfigError, match="secret projects/p/secrets/s: "):
        load_ring("bigtable://p/i/t")


# --- the file changes ----------------------------------------------------------------------------------------------------


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """``forecourt keys …`` in this process."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["forecourt", "keys", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            forecourt.main()
        captured = capsys.readouterr()
        assert isinstance(stop.value.code, int)
        return stop.value.code, captured.out, captured.err

    return run


@pytest.fixture
def local(tmp_path: Path) -> Store:
    """A store whose key file holds the old key."""
    store = open_store(f"sqlite:///{tmp_path}/store.db")
    store.init()
    (tmp_path / "store.db.key").write_text(OLD + "\n")
    return store


def test_a_key_is_added_then_promoted_then_destroyed(command: Command, local: Store, tmp_path: Path) -> None:
    path = tmp_path / "store.db.key"
    assert command("add", "--store", local.uri)[0] == 0
    lines = path.read_text().splitlines()
    assert lines[0] == OLD, "the old key still writes"
    assert lines[1].startswith("2:")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert command("rotate", "--store", local.uri)[0] == 2, "nothing to move to yet"
    assert command("promote", "2", "--store", local.uri)[0] == 0
    assert path.read_text().splitlines() == [lines[1], OLD]
    assert command("rotate", "--store", local.uri)[0] == 0
    status, out, err = command("destroy", "1", "--store", local.uri, "--no-archive")
    assert (status, out) == (0, "")
    assert path.read_text().splitlines() == [lines[1]]
    assert not list(tmp_path.glob(".store.db.key*")), "nothing of it lies about"


def test_what_a_key_file_held_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"{NEW}\n{OLD}\n")
    with path.open("rb") as old:
        replace_file(path, ring_of(NEW, "tests"))
        assert set(old.read()) == {0}
    assert path.read_text() == text_of(ring_of(NEW, "tests"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("promote", "7"), "version == 7, must be one of the ring: 2, 1"),
        (("promote", "1"), "version == 1, must be at least 2, which writes"),
        (("destroy", "2", "--no-archive"), "version == 2, must be another than the one that writes"),
        (("destroy", "9", "--no-archive"), "version == 9, must be one of the ring"),
        (("destroy", "1"), "--archive must be given"),
        (("destroy", "1", "--force", " "), "--force must say why"),
    ],
)
def test_what_would_lose_something_is_refused(
    arguments: tuple[str, ...], message: str, command: Command, local: Store, tmp_path: Path
) -> None:
    (tmp_path / "store.db.key").write_text(f"{NEW}\n{OLD}\n")
    status, out, err = command(*arguments, "--store", local.uri)
    assert (status, out) == (2, "")
    assert message in err
    assert (tmp_path / "store.db.key").read_text() == f"{NEW}\n{OLD}\n"


def test_a_key_in_the_environment_is_added_as_a_line(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, OLD)
    status, out, err = command("add")
    assert (status, out[:2], "below the others" in err) == (0, "2:", True)
    ring = ring_of(f"{OLD}\n{out}", "tests")
    assert (ring.current.version, ring.keys[0].version) == (1, 2)


def test_a_key_that_is_needed_is_destroyed_by_force_alone(command: Command, local: Store, tmp_path: Path) -> None:
    streamed(local, ONLY_OLD, [event_of(1)])
    (tmp_path / "store.db.key").write_text(f"{NEW}\n{OLD}\n")
    status, _, err = command("destroy", "1", "--store", local.uri, "--no-archive")
    assert (status, "version 1 is still needed: 1 rows" in err) == (1, True)
    assert command("destroy", "1", "--store", local.uri, "--force", "it leaked")[0] == 0
    assert (tmp_path / "store.db.key").read_text() == NEW + "\n"


# --- what is left --------------------------------------------------------------------------------------------------------


def test_status_counts_by_version_and_says_what_may_go(command: Command, local: Store, tmp_path: Path) -> None:
    archive = str(tmp_path / "archive")
    streamed(local, ONLY_OLD, [event_of(1)])
    streamed(local, ONLY_NEW, [event_of(2, user="bob")])
    local.bury([tombstone_of(ONLY_OLD("eve"), clock_ms() - 39 * DAY_MS)])
    archived(archive, ONLY_OLD, [event_of(1)])
    (tmp_path / "store.db.key").write_text(f"{NEW}\n{OLD}\n")
    status, out, _ = command("status", "--store", local.uri, "--archive", archive, "--json")
    document = json.loads(out)
    new, old = document["versions"]
    assert (status, document["current"], new["version"], old["version"]) == (1, 2, 2, 1)
    assert (new["rows"], new["files"], new["why_not"]) == (1, 0, ["it writes"])
    assert (old["rows"], old["files"], old["tombstones"]) == (1, 1, 1)
    assert old["why_not"] == ["1 rows", "1 archive files"]
    assert command("rotate", "--store", local.uri, "--archive", archive, "--json")[0] == 0
    status, out, _ = command("status", "--store", local.uri, "--archive", archive)
    assert (status, "yes" in out) == (0, True)


def test_a_young_tombstone_keeps_its_key() -> None:
    now = clock_ms()
    use = KeyUse(1, True, False, 0, 0, 0, 1, now - 38 * DAY_MS + 1)
    assert use.kept_by(now) == ["its newest tombstone is 38.0 days old, must be 38"]
    assert use.kept_by(now + 1) == []


def test_rows_under_a_key_that_nobody_has_are_told(local: Store) -> None:
    local.append([("7:" + "0" * 64, view_cell(5, "e", b""))])
    assert key_uses(ring_of(OLD, "tests"), local, [])[0] == KeyUse(7, False, False, 1, None, None, 0, None)


# --- the archive ---------------------------------------------------------------------------------------------------------


def archived(archive: str, pseudonyms: Pseudonyms, events: list[Event]) -> None:
    """Write events as one file of their date, received never."""
    known = [pseudonymise(event._replace(event_time=NOON + place), pseudonyms) for place, event in enumerate(events)]
    write_archive(archive, Waiting("2026-01-05", [Received(event, None) for event in known]), CATALOGUE)


def table_in(archive: str) -> pa.Table:
    return read_archive(archive, CATALOGUE)


EVENTS: Final = [
    event_of(1),
    event_of(2, user="ann", browser="fox", kind="featured_click")._replace(experiment={"unit": "ann", "seen": ["fox"], "arm": "b"}),
    event_of(3, user=None, browser="owl"),
    event_of(4, user="bob", kind="opt_out"),
]


def test_an_archive_rotated_is_the_one_that_the_new_key_would_have_written(tmp_path: Path) -> None:
    archive, other = str(tmp_path / "archive"), str(tmp_path / "other")
    archived(archive, ONLY_OLD, EVENTS[:2])
    archived(archive, ONLY_OLD, EVENTS[2:])
    archived(other, ONLY_NEW, EVENTS[:2])
    archived(other, ONLY_NEW, EVENTS[2:])
    names = parts_of(archive)
    assert rotate_archive(archive, NEW_FIRST) == ArchiveMoved(files=2, rewritten=2, events=4)
    assert table_in(archive).equals(table_in(other))
    assert parts_of(archive) == names, "files are replaced, not added"
    assert {version for path in names for version in versions_in(path)} == {2}
    before = {path: Path(path).stat().st_mtime_ns for path in names}
    assert rotate_archive(archive, NEW_FIRST) == ArchiveMoved(files=2)
    assert {path: Path(path).stat().st_mtime_ns for path in names} == before, "nothing older, nothing written"


def test_files_without_older_names_are_left_alone(tmp_path: Path) -> None:
    archive = str(tmp_path)
    archived(archive, ONLY_NEW, EVENTS[:2])
    (path,) = parts_of(archive)
    before = os.stat(path).st_ino
    archived(archive, ONLY_OLD, EVENTS[2:])
    assert rotate_archive(archive, NEW_FIRST) == ArchiveMoved(files=2, rewritten=1, events=2)
    assert os.stat(path).st_ino == before


def test_an_event_that_nobody_sealed_keeps_its_name_unless_another_tells(tmp_path: Path) -> None:
    archive = str(tmp_path)
    known = [
        pseudonymise(event._replace(event_time=NOON), ONLY_OLD) for event in (event_of(1), event_of(2), event_of(3, user="bob"))
    ]
    plain = [event._replace(sealed_user_id=None) for event in known[1:]]
    write_archive(archive, Waiting("2026-01-05", [Received(event, None) for event in [known[0], *plain]]), CATALOGUE)
    assert rotate_archive(archive, NEW_FIRST) == ArchiveMoved(files=1, rewritten=1, events=3, unsealed=1)
    assert sorted(table_in(archive)["user"].to_pylist()) == sorted([ONLY_OLD("bob"), NEW_FIRST("ann"), NEW_FIRST("ann")])


def test_what_a_tombstone_bars_goes_before_its_name_does(tmp_path: Path) -> None:
    archive = str(tmp_path)
    archived(archive, ONLY_OLD, EVENTS[:1])  # a copy that came in when no one looked
    grave = tombstone_of(ONLY_OLD("ann"), NOON + DAY_MS)
    change_ledger(archive, lambda ledger: with_entries(ledger, [entry_of_tombstone(grave)]))
    done = rotate_archive(archive, NEW_FIRST)
    assert (done.rewritten, done.forgotten) == (1, 1)
    assert len(table_in(archive)) == 0


def test_the_ledger_gets_the_new_names(tmp_path: Path) -> None:
    archive = str(tmp_path)
    link = Entry("link", ONLY_OLD("fox"), 5, "e1", "identify", ONLY_OLD("ann"), ONLY_OLD.seal("fox"), ONLY_OLD.seal("ann"))
    entries = [
        link,
        Entry(OPT_OUT, ONLY_OLD("ann"), 6, "e2", sealed=ONLY_OLD.seal("ann")),
        Entry(OPT_OUT, ONLY_OLD("eve"), 6, "e3"),
        entry_of_tombstone(Tombstone(b"d" * 16, 1, 4)),
    ]
    change_ledger(archive, lambda ledger: with_entries(ledger, entries))
    done = rotate_archive(archive, NEW_FIRST)
    assert (done.entries, done.entries_left) == (2, 1)
    found = {entry.event_id: entry for entry in entries_in(read_ledger(archive))}
    assert found["e1"] == link._replace(
        key=NEW_FIRST("fox"), other=NEW_FIRST("ann"), sealed=NEW_FIRST.seal("fox"), sealed_other=NEW_FIRST.seal("ann")
    )
    assert found["e2"].key == NEW_FIRST("ann")
    assert found["e3"].key == ONLY_OLD("eve"), "nobody knows whose it is"


def test_consents_of_dates_that_retention_removed_get_the_new_names(tmp_path: Path) -> None:
    archive = str(tmp_path)
    said = [event_of(1, kind="opt_out"), event_of(2, user=None, browser="owl", kind="opt_out"), event_of(3, kind="opt_in")]
    archived(archive, ONLY_OLD, said)
    (old,) = old_dates(archive, 35, NOON + 40 * DAY_MS)
    remove_date(archive, old)
    rotate_archive(archive, NEW_FIRST)
    found = [(entry.kind, entry.key, entry.sealed) for entry in entries_in(read_ledger(archive)) if entry.kind != "link"]
    ann, owl = ((NEW_FIRST(raw), NEW_FIRST.seal(raw)) for raw in ("ann", "owl"))
    assert sorted(found) == sorted([(OPT_OUT, *ann), (OPT_OUT, *owl), ("opt_in", *ann)])


def test_the_commands_move_everything(command: Command, local: Store, tmp_path: Path) -> None:
    archive, other = str(tmp_path / "archive"), open_store(f"sqlite:///{tmp_path}/other.db")
    other.init()
    streamed(local, ONLY_OLD, EVENTS)
    streamed(other, ONLY_NEW, EVENTS)
    archived(archive, ONLY_OLD, EVENTS)
    (tmp_path / "store.db.key").write_text(f"{NEW}\n{OLD}\n")
    status, out, _ = command("rotate", "--store", local.uri, "--archive", archive, "--json")
    document = json.loads(out)
    assert (status, document["rows"]["moved"], document["archive"]["events"]) == (0, 4, 4)
    assert contents(local).keys() == contents(other).keys()
    assert keys.run(["destroy", "1", "--store", local.uri, "--archive", archive]) == 0
