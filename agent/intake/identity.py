"""The device's own ids: random, kept in the state directory, never from hardware."""

import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from agent import atomic_file
from agent.event import Sender, Stream
from agent.jsontext import frozen

FILE_NAME = "identity.json"


@dataclass(frozen=True, slots=True)
class Identity:
    """What the agent made for this device: GA4's client id, and the broker's."""

    client_id: str
    mqtt_client_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """The sender of events that name none, for web and for app streams."""

    client_id: str
    app_instance_id: str | None
    user_id: str | None
    user_properties: Mapping[str, str | int | float]

    def sender(self, stream: Stream | None) -> Sender:
        """Who sends on this stream; an app stream knows no client_id."""
        app = stream is not None and stream.is_app
        return Sender(
            client_id=None if app else self.client_id,
            app_instance_id=self.app_instance_id if app else None,
            user_id=self.user_id,
            user_properties=frozen({k: {"value": v} for k, v in self.user_properties.items()}),
        )


def load_identity(
    directory: Path,
    *,
    wall_us: Callable[[], int],
    random: Callable[[int], int] = secrets.randbelow,
) -> Identity:
    """The ids of this device; made at the first call, the same ever after."""
    path = directory / FILE_NAME
    try:
        stored = json.loads(path.read_bytes())
        return Identity(str(stored["client_id"]), str(stored["mqtt_client_id"]))
    except FileNotFoundError:
        pass
    except (ValueError, KeyError, TypeError):
        # Half an identity is none. What was counted under the old id stays with it.
        path.rename(path.with_suffix(".damaged"))
    identity = _made(wall_us, random)
    text = json.dumps({"client_id": identity.client_id, "mqtt_client_id": identity.mqtt_client_id})
    atomic_file.write(path, text.encode())
    return identity


def _made(wall_us: Callable[[], int], random: Callable[[int], int]) -> Identity:
    # GA4 recommends two positive numbers joined by a dot (reference, "client_id").
    client_id = f"{random(2**31 - 1) + 1}.{wall_us() // 1_000_000}"
    return Identity(client_id, f"ga4-agent-{random(2**48):012x}")
