"""The table ``[device]`` and those in it: whom events belong to that name no sender."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from agent.config import mapping, readers
from agent.config.kinds import Scalars
from agent.ga4.rules import fields, limits


def _text(key: str, form: re.Pattern[str]) -> readers.Reader:
    """Read a text of the form that GA4 wants at this key."""
    longest = limits.PARAM_VALUE_MAX  # no page names a limit here: none needs more
    return readers.text(
        expected=fields.EXAMPLES.get(key, f"a text of 1 to {longest} characters"),
        fits=lambda text: (
            0 < len(text) <= longest
            and text.isprintable()
            and text == text.strip()
            and form.fullmatch(text) is not None
        ),
    )


def _hardware(key: str) -> readers.Reader:
    return _text(key, fields.DEVICE[key])


def _place(key: str) -> readers.Reader:
    return _text(key, fields.LOCATION[key])


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsentSettings:
    """What visitors have agreed to; of those whom the agent gave an id only."""

    ad_user_data: Annotated[
        Literal["GRANTED", "DENIED"], readers.choice(*fields.CONSENT_STATES)
    ] = "DENIED"
    ad_personalization: Annotated[
        Literal["GRANTED", "DENIED"], readers.choice(*fields.CONSENT_STATES)
    ] = "DENIED"


@dataclass(frozen=True, slots=True, kw_only=True)
class HardwareSettings:
    """GA4's description of the device (`device` in a body). None: not said here.

    Operating system, its version, model and screen are found out where they are not said.
    """

    category: Annotated[str | None, _hardware("category")] = None
    language: Annotated[str | None, _hardware("language")] = None
    screen_resolution: Annotated[str | None, _hardware("screen_resolution")] = None
    operating_system: Annotated[str | None, _hardware("operating_system")] = None
    operating_system_version: Annotated[str | None, _hardware("operating_system_version")] = None
    model: Annotated[str | None, _hardware("model")] = None
    brand: Annotated[str | None, _hardware("brand")] = None
    browser: Annotated[str | None, _hardware("browser")] = None
    browser_version: Annotated[str | None, _hardware("browser_version")] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LocationSettings:
    """Where the device stands (`user_location` in a body). None: not said."""

    city: Annotated[str | None, _place("city")] = None
    region_id: Annotated[str | None, _place("region_id")] = None
    country_id: Annotated[str | None, _place("country_id")] = None
    subcontinent_id: Annotated[str | None, _place("subcontinent_id")] = None
    continent_id: Annotated[str | None, _place("continent_id")] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSettings:
    """Whom events belong to that name no sender, and what is put on every event.

    None of it is shown by repr: it may name a person.
    """

    client_id: Annotated[
        str, readers.identifier(expected='"auto" or a client id of one line', longest=256)
    ] = field(default="auto", repr=False)
    visitor: Annotated[Literal["device", "sitting"], readers.choice("device", "sitting")] = "device"
    """Who gets an id that the agent makes: the machine, or each visitor's sitting."""
    app_instance_id: Annotated[
        str | None,
        readers.text(
            expected="32 hexadecimal digits",
            fits=lambda text: mapping.APP_INSTANCE_ID.fullmatch(text) is not None,
            show=readers.kind_of_text,
            write=readers.hidden,
        ),
    ] = field(default=None, repr=False)
    user_id: Annotated[
        str | None, readers.identifier(expected="a user id of 1 to 256 characters", longest=256)
    ] = field(default=None, repr=False)
    id_salt_file: Annotated[Path | None, readers.secret_path()] = None
    """Salt of the ids that are made of keys, such as card numbers."""
    user_properties: Scalars = field(default_factory=dict, repr=False)
    params: Scalars = field(default_factory=dict, repr=False)
    fill_in_hardware: Annotated[bool, readers.switch()] = True
    """Say of the hardware what can be found out and `hardware` does not say."""
    consent: ConsentSettings = field(default_factory=ConsentSettings)
    hardware: HardwareSettings = field(default_factory=HardwareSettings, repr=False)
    location: LocationSettings = field(default_factory=LocationSettings, repr=False)
