"""The store of profile rows, chosen by URI: ``bigtable://PROJECT/INSTANCE/TABLE`` or ``sqlite:///PATH``."""

from __future__ import annotations

from schemas.errors import ConfigError, shown
from serving.store.protocol import SAID_AT_ONCE, Appended, Dump, Refusal, RowUpdate, Store, WindowRead

__all__ = ["SAID_AT_ONCE", "Appended", "Dump", "Refusal", "RowUpdate", "Store", "WindowRead", "check_uri", "open_store"]


def check_uri(uri: str) -> str:
    """The URI itself; ``ConfigError`` when it names no store."""
    scheme, _, rest = uri.partition("://")
    parts = rest.split("/")
    if (scheme == "bigtable" and len(parts) == 3 and all(parts)) or (scheme == "sqlite" and rest.startswith("/") and len(rest) > 1):
        return uri
    msg = f"store == {shown(uri)}, must be bigtable://PROJECT/INSTANCE/TABLE or sqlite:///PATH"
    raise ConfigError(msg)


def open_store(uri: str) -> Store:
    """The store at a URI; nothing is connected to or created yet. The store's library is imported only now."""
    rest = check_uri(uri).partition("://")[2]
    if uri.startswith("sqlite:"):
        from serving.store.sqlite import SQLiteStore

        return SQLiteStore(uri, rest[1:])
    from serving.store.bigtable import BigtableStore

    return BigtableStore(uri, *rest.split("/"))
