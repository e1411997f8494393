"""A program on the device that publishes to the broker."""

import ssl
from types import TracebackType
from typing import Any, Self

from paho.mqtt.client import Client, MQTTMessageInfo
from paho.mqtt.enums import CallbackAPIVersion

from tests.waiting import PATIENCE


class Publisher:
    """A program on the device. What ``publish`` returned from, the broker has."""

    def __init__(
        self,
        port: int,
        *,
        login: tuple[str, str] | None = None,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self._client = Client(CallbackAPIVersion.VERSION2)
        if login is not None:
            self._client.username_pw_set(*login)
        if context is not None:
            self._client.tls_set_context(context)
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()

    def publish(self, topic: str, *payloads: bytes, **options: Any) -> None:
        """Hand in messages; QoS 1 unless told."""
        options = {"qos": 1} | options
        infos: list[MQTTMessageInfo] = [
            self._client.publish(topic, payload, **options) for payload in payloads
        ]
        for info in infos:
            info.wait_for_publish(PATIENCE)
            assert info.is_published()

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()
