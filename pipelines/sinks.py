"""Where messages go for good: ``file:PATH`` (JSON lines, appended) or ``pubsub://PROJECT/topics/TOPIC``. Without Beam."""

from __future__ import annotations

from pathlib import Path

from schemas.errors import ConfigError, shown
from serving.file_sink import FileSink, Sink


def check_sink_uri(uri: str, what: str) -> str:
    """The URI itself; ``ConfigError`` when no sink can be opened at it. ``what`` goes there is for the message."""
    if uri.startswith("file:") and len(uri) > len("file:"):
        path = Path(uri.removeprefix("file:"))
        if path.is_dir():
            msg = f"{what} == {uri}, must be a file: it is a folder"
            raise ConfigError(msg)
        if path.parent.is_dir():
            return uri
        msg = f"{what} == {uri}, must lie in a folder that exists: {path.parent}"
        raise ConfigError(msg)
    project, _, topic = uri.removeprefix("pubsub://").partition("/topics/")
    if uri.startswith("pubsub://") and project and topic:
        return uri
    msg = f"{what} == {shown(uri)}, must be file:PATH or pubsub://PROJECT/topics/TOPIC"
    raise ConfigError(msg)


def open_sink(uri: str) -> Sink:
    """The sink at a URI."""
    if uri.startswith("file:"):
        return FileSink(uri.removeprefix("file:"))
    from pipelines.pubsub import TopicSink

    return TopicSink(uri)
