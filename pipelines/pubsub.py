"""Pub/Sub: names, what is there, and a topic to write to. Without Beam: the gateway publishes too."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Sequence
from typing import Final

from google.api_core import exceptions as api
from google.auth.exceptions import GoogleAuthError
from google.cloud import pubsub_v1
from google.cloud.pubsub_v1.types import BatchSettings

from schemas.errors import ConfigError, ForecourtError, shown

ACK_DEADLINE_S: Final = 60
CALL_DEADLINE_S: Final = 10.0
PUBLISH_DEADLINE_S: Final = 30.0
_EMULATOR: Final = "PUBSUB_EMULATOR_HOST"
_SUBSCRIPTION: Final = re.compile(r"pubsub://([^/]+)/subscriptions/([^/]+)")
_TOPIC: Final = re.compile(r"pubsub://([^/]+)/topics/([^/]+)")

_log = logging.getLogger(__name__)


class PubSubError(ForecourtError):
    """Pub/Sub doesn't answer, or refuses; the message says what to do."""


def subscription_path(uri: str) -> str:
    """``pubsub://P/subscriptions/S`` as Google names it; ``ConfigError`` when it is none."""
    found = _SUBSCRIPTION.fullmatch(uri)
    if found is None:
        msg = f"source == {shown(uri)}, must be file:PATH or pubsub://PROJECT/subscriptions/SUBSCRIPTION"
        raise ConfigError(msg)
    return f"projects/{found[1]}/subscriptions/{found[2]}"


def topic_path(uri: str) -> str:
    """``pubsub://P/topics/T`` as Google names it; ``ConfigError`` when it is none."""
    found = _TOPIC.fullmatch(uri)
    if found is None:
        msg = f"topic == {shown(uri)}, must be pubsub://PROJECT/topics/TOPIC"
        raise ConfigError(msg)
    return f"projects/{found[1]}/topics/{found[2]}"


def check_subscription(uri: str) -> None:
    """Return when the subscription is there; ``PubSubError`` says what to do otherwise."""
    path = subscription_path(uri)
    try:
        with pubsub_v1.SubscriberClient() as client:
            client.get_subscription(subscription=path, timeout=CALL_DEADLINE_S, retry=None)
    except api.NotFound as error:
        msg = f"source == {uri} does not exist, must be a subscription (gcloud pubsub subscriptions create … --ack-deadline=60)"
        raise ConfigError(msg) from error
    except api.GoogleAPICallError as error:
        raise PubSubError(unreachable(uri, error)) from error


def create_subscription(topic: str, subscription: str, ack_deadline_s: int = ACK_DEADLINE_S) -> None:
    """Create a topic, where missing, and a subscription to it: for emulators, where nobody else does."""
    with contextlib.suppress(api.AlreadyExists), pubsub_v1.PublisherClient() as publisher:
        publisher.create_topic(name=topic_path(topic), timeout=CALL_DEADLINE_S)
    with pubsub_v1.SubscriberClient() as subscriber:
        subscriber.create_subscription(
            name=subscription_path(subscription),
            topic=topic_path(topic),
            ack_deadline_seconds=ack_deadline_s,
            timeout=CALL_DEADLINE_S,
        )


class TopicSink:
    """Publishes each batch and waits until all of it is taken."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._path = topic_path(uri)
        try:
            self._client = pubsub_v1.PublisherClient(BatchSettings(max_messages=1_000, max_bytes=1 << 20, max_latency=0.02))
        except GoogleAuthError as error:
            msg = f"{uri}: {line_of(error)}"
            raise PubSubError(msg) from error

    def write(self, messages: Sequence[bytes]) -> None:
        """Publish the messages; ``PubSubError`` when one isn't taken within 30 s."""
        futures = [self._client.publish(self._path, message, timeout=PUBLISH_DEADLINE_S) for message in messages]
        try:
            for future in futures:
                future.result(timeout=PUBLISH_DEADLINE_S)
        except (api.GoogleAPICallError, TimeoutError) as error:
            raise PubSubError(unreachable(self._uri, error)) from error


def unreachable(what: str, error: BaseException) -> str:
    """What to tell of a Pub/Sub that doesn't answer."""
    where = os.environ.get(_EMULATOR)
    hint = f"is the emulator at {_EMULATOR}={where} running (forecourt emulators)?" if where else "can this machine reach Pub/Sub?"
    return f"{what} does not answer: {line_of(error)}; {hint}"


def line_of(error: BaseException) -> str:
    """The first line of what an error says."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
