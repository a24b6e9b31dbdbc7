"""Shared fixtures: the emulators, once a session, and the stores that the contract tests run over."""

from __future__ import annotations

import os
import pathlib
import uuid
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from pipelines.emulators import EmulatorsMissing, Endpoints, emulators
from serving.store import Store, open_store

settings.register_profile(
    "forecourt",
    deadline=None,  # no test has a time limit
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    print_blob=True,
)
settings.load_profile("forecourt")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as ``alone`` what asks the emulators: beside another they would be slow to answer."""
    for item in items:
        if {"emulators_endpoints", "store_uri"} & set(getattr(item, "fixturenames", ())):
            item.add_marker("alone")


@pytest.fixture(scope="session")
def emulators_endpoints() -> Iterator[Endpoints]:
    """Both emulators, with the variables set that Google's clients read; missing ones fail in CI and skip on a laptop."""
    try:
        with emulators() as endpoints, pytest.MonkeyPatch.context() as patch:
            for name, address in endpoints.environment().items():
                patch.setenv(name, address)
            yield endpoints
    except EmulatorsMissing as missing:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(str(missing))


@pytest.fixture
def bigtable_store_uri(emulators_endpoints: Endpoints) -> str:
    """A store in the Bigtable emulator; its table isn't there yet, and no other test has it."""
    return f"bigtable://demo/demo/t{uuid.uuid4().hex[:12]}"


@pytest.fixture
def sqlite_store_uri(tmp_path: pathlib.Path) -> str:
    """A store in a file that isn't there yet."""
    return f"sqlite:///{tmp_path}/store.db"


@pytest.fixture(params=["sqlite", "bigtable"])
def store_uri(request: pytest.FixtureRequest) -> str:
    """One store of each kind."""
    uri: str = request.getfixturevalue(f"{request.param}_store_uri")
    return uri


@pytest.fixture
def store(store_uri: str) -> Iterator[Store]:
    """One store of each kind, made and open."""
    store = open_store(store_uri)
    store.init()
    yield store
    store.close()
