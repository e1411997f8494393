"""What travels: one frozen Event, with its Sender, Stream and Stamp."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from types import MappingProxyType
from typing import Any, Literal

from agent.jsontext import canonical
from agent.secret import Secret

Json = Any
# GA4 answers 204 to an id that does not exist: with the example's everything would be lost.
EXAMPLE_ID = re.compile("G-X{6,}[0-9]?")
UNASSIGNED = "*"  # the stream of events that came before any stream was configured
NOTHING: Mapping[str, Json] = MappingProxyType({})


class Priority(IntEnum):
    """What leaves first. The numbers are stored in the queue: never renumber."""

    HIGH = 0
    NORMAL = 1
    LOW = 2


@dataclass(frozen=True, slots=True)
class Stamp:
    """When the device took an event, in enough ways to repair a wrong clock later.

    ``wall_us``: microseconds since 1970 by the wall clock; ``boot_us``: microseconds since
    boot, sleep included; ``boot_id``: the kernel's id of that boot; ``trusted``: whether the
    wall clock was known to be right.
    """

    wall_us: int
    boot_us: int
    boot_id: str
    trusted: bool


@dataclass(frozen=True, slots=True)
class BootRow:
    """What is kept of one boot, to repair its stamps later.

    ``boot_id``: the kernel's id of it; ``number``: the boots in their order; ``state``: JSON, which
    only the history of the boots understands.
    """

    boot_id: str
    number: int
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sender:
    """Everything that must be equal for events to share a request.

    The fields are the top level of a Measurement Protocol body (reference, "Payload POST
    body") without its events; ``rest`` holds the keys that have no field of their own.
    """

    client_id: str | None = None
    app_instance_id: str | None = None
    user_id: str | None = None
    user_properties: Mapping[str, Json] = field(default_factory=lambda: NOTHING)
    consent: Mapping[str, Json] = field(default_factory=lambda: NOTHING)
    device: Mapping[str, Json] = field(default_factory=lambda: NOTHING)
    location: Mapping[str, Json] = field(default_factory=lambda: NOTHING)
    rest: Mapping[str, Json] = field(default_factory=lambda: NOTHING)

    @property
    def named(self) -> bool:
        """Whether it says whose events these are."""
        return self.client_id is not None or self.app_instance_id is not None

    @property
    def body(self) -> dict[str, Json]:
        """The top level of the request body that these events share."""
        named = {
            "client_id": self.client_id,
            "app_instance_id": self.app_instance_id,
            "user_id": self.user_id,
            "user_properties": self.user_properties,
            "consent": self.consent,
            "device": self.device,
            "user_location": self.location,
        }
        # An empty text is kept: it is what the publisher said, and not the same as nothing.
        return {k: v for k, v in named.items() if v is not None and v != {}} | dict(self.rest)

    @property
    def key(self) -> str:
        """Equal for senders whose events may share a request, different for all others."""
        return canonical(self.body)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """A GA4 data stream: where events go, and the secret that lets them in.

    Either ``measurement_id`` (web) or ``firebase_app_id`` (app) is set. ``accept_body`` lets a
    server container answer 2xx with a body. Without a secret nothing can be delivered.

    ``late``: what becomes of events that GA4 would move in time. ``on_uncertain``: whether an
    event that may have been counted is sent again. ``uncertain_time``: whether events say by how
    much their time may be wrong. ``traffic_type``: put on every event. ``event_id``: sent as a
    param.
    """

    name: str
    endpoint: str
    measurement_id: str | None = None
    firebase_app_id: str | None = None
    secret: Secret | None = field(default=None, repr=False)
    accept_body: bool = False
    late: Literal["dead", "restamp", "send"] = "dead"
    on_uncertain: Literal["repeat", "lose"] = "repeat"
    uncertain_time: bool = True
    traffic_type: str | None = None
    event_id: bool = True

    @property
    def lacks(self) -> str:
        """What it needs before anything can be delivered, and the cure; empty if nothing."""
        if self.measurement_id and EXAMPLE_ID.fullmatch(self.measurement_id):
            return "measurement_id is that of the example; write your own (Admin > Data streams)"
        if self.secret is None:
            return f"there is no api_secret; run: ga4-agent secret set {self.name}"
        return ""

    @property
    def is_app(self) -> bool:
        """Whether it takes ``app_instance_id`` in place of ``client_id``."""
        return self.firebase_app_id is not None


@dataclass(frozen=True, slots=True)
class Beginning:
    """When a sitting began whose session_id is not known yet, and of which client it is one."""

    client: str
    start: Stamp


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event, as it lies in the queue.

    ``time_us`` is the time in microseconds that a publisher elsewhere gave; it is sent as it is,
    while ``stamp`` is corrected with this device's clock. ``sitting`` is that of an event whose
    session_id is found when it leaves. ``session``, ``actor`` and ``priority`` steer the agent and
    are never sent.
    """

    name: str
    stream: str
    sender: Sender
    stamp: Stamp
    event_id: str
    params: Mapping[str, Json] = field(default_factory=lambda: NOTHING)
    priority: Priority = Priority.NORMAL
    time_us: int | None = None
    session: Literal["start", "end"] | None = None
    actor: str | None = None
    sitting: Beginning | None = None


@dataclass(frozen=True, slots=True)
class RawMessage:
    """A message that could not become events, kept for people: source, reason, first bytes.

    ``why`` says in a sentence what is wrong with it, and repeats none of it.
    """

    source: str
    reason: str
    payload: bytes
    stamp: Stamp
    why: str = ""


class InvalidEvent(ValueError):  # noqa: N818 - the design's word
    """Why an event was not taken.

    ``field_path``, ``description`` and ``code`` are those of GA4's ``validationMessages``
    (validation reference, "Validation code"), so that an HTTP client can be told in the terms
    it knows.
    """

    def __init__(self, field_path: str, description: str, code: str = "VALUE_INVALID") -> None:
        super().__init__(f"{field_path}: {description}" if field_path else description)
        self.field_path = field_path
        self.description = description
        self.code = code
