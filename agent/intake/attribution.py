"""Whose an event is: the device's own, a borrowed id's, or an id that is made of a key. Pure.

Session, user properties, consent, device and location are added only to ids that the agent or its
configuration made: what is known of somebody else's id was said by whoever made it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from agent.event import NOTHING, InvalidEvent, Sender, Stream
from agent.intake import borrowed
from agent.intake.borrowed import keyed_id
from agent.intake.parse import Draft
from agent.jsontext import frozen
from agent.secret import Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """The sender of events that name none, for web and for app streams.

    ``hardware`` and ``location`` are GA4's ``device`` and ``user_location``.
    """

    client_id: str
    app_instance_id: str | None = None
    user_id: str | None = None
    user_properties: Mapping[str, str | int | float] = field(default_factory=lambda: NOTHING)
    consent: Mapping[str, str] = field(default_factory=lambda: NOTHING)
    hardware: Mapping[str, str] = field(default_factory=lambda: NOTHING)
    location: Mapping[str, str] = field(default_factory=lambda: NOTHING)

    def sender(self, stream: Stream | None) -> Sender:
        """Who sends on this stream; an app stream knows no client_id."""
        app = stream is not None and stream.is_app
        return Sender(
            client_id=None if app else self.client_id,
            app_instance_id=self.app_instance_id if app else None,
            user_id=self.user_id,
            user_properties=frozen({k: {"value": v} for k, v in self.user_properties.items()}),
            consent=frozen(self.consent),
            device=frozen(self.hardware),
            location=frozen(self.location),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Attributed:
    """Whose an event is.

    ``own``: the device's. ``made``: the agent or its configuration made the id, so that it may
    have what the device knows. ``session_id``: what a borrowed id's cookie says.
    """

    sender: Sender
    own: bool = False
    made: bool = False
    session_id: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribution:
    """Finds whose events are. ``salt``: turns keys such as card numbers into ids."""

    device: Device
    salt: Secret | None = None

    def of(self, draft: Draft, cookies: str, stream: Stream | None) -> Attributed:
        """Whose the event is; ``cookies``: the header of the request that brought it.

        Raises InvalidEvent for a key that cannot be turned into an id of this stream.
        """
        said, device = draft.sender, self.device.sender(stream)
        found = borrowed.from_cookies(
            draft.cookies or cookies, stream.measurement_id if stream else None
        )
        if _is(said, device):
            return Attributed(sender=_over(said, device), own=True, made=True)
        if said.named:
            sender = _plain(said)
            # Another visitor's cookie says nothing of this one's session.
            theirs = found.client_id in (None, sender.client_id)
            return Attributed(sender=sender, session_id=found.session_id if theirs else None)
        if draft.client_key is not None:
            client_id = self._keyed(draft.client_key, stream)
            # The device's user is not the card's holder: all cards would be one user in reports.
            sender = replace(_over(said, device), client_id=client_id, user_id=said.user_id)
            return Attributed(sender=sender, made=True)
        if found.client_id is not None and device.client_id is not None:
            sender = replace(said, client_id=found.client_id)
            return Attributed(sender=sender, session_id=found.session_id)
        return Attributed(sender=_over(said, device), own=True, made=True)

    def _keyed(self, key: str, stream: Stream | None) -> str:
        if stream is not None and stream.is_app:
            raise InvalidEvent(
                "client_key", "found a key, expected none on an app stream: it would be a client_id"
            )
        if self.salt is None:
            raise InvalidEvent(
                "client_key", "found a key, expected none: there is no salt to make an id of it"
            )
        return keyed_id(key, self.salt)


def _is(said: Sender, device: Sender) -> bool:
    """Whether it names the device itself: a program that has asked for its id."""
    ids = (device.client_id, device.app_instance_id)
    return any(own is not None and own in (said.client_id, said.app_instance_id) for own in ids)


def _plain(said: Sender) -> Sender:
    """A client id that came as the `_ga` cookie's text is the id in it: one visitor, one id."""
    found = borrowed.client_id_of(said.client_id) if said.client_id else None
    return replace(said, client_id=found) if found else said


def _over(said: Sender, device: Sender) -> Sender:
    """The device, with what was said put over it, key by key.

    A place is one thing: the country of one and the city of another are nowhere.
    """
    return replace(
        device,
        user_id=said.user_id or device.user_id,
        user_properties=frozen({**device.user_properties, **said.user_properties}),
        consent=frozen({**device.consent, **said.consent}),
        device=frozen({**device.device, **said.device}),
        location=said.location or device.location,
        rest=frozen({**device.rest, **said.rest}),
    )
