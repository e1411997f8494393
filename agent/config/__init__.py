"""The configuration: TOML to frozen dataclasses. Every default and every check lives here.

`load` and `parse` either give a whole `Config` or raise one `ConfigError` with every problem at
once, because whoever corrects the file may be on the phone with someone else who types.

How it works: the dataclasses (settings.py, stream.py, device.py) say in their annotations how
each key is read (readers.py, addresses.py); cattrs walks the tables and collects what the readers
refuse (structure.py); rules between keys (rules.py) look at the raw tables, so that a bad key in
one place hides no problem in another; reading.py is the way from the file to the `Config`.

A value that may be secret or may name a person is never repeated in a message.
"""

from agent.config.device import ConsentSettings, DeviceSettings, HardwareSettings, LocationSettings
from agent.config.problems import ConfigError, Problem
from agent.config.reading import expect_readable, load, parse
from agent.config.settings import (
    Config,
    DeliverySettings,
    HttpSettings,
    LogSettings,
    MqttSettings,
    NetworkSettings,
    QueueSettings,
    SessionSettings,
    SpoolSettings,
    SubscriptionSettings,
)
from agent.config.stream import RulesSettings, StreamSettings

__all__ = [
    "Config",
    "ConfigError",
    "ConsentSettings",
    "DeliverySettings",
    "DeviceSettings",
    "HardwareSettings",
    "HttpSettings",
    "LocationSettings",
    "LogSettings",
    "MqttSettings",
    "NetworkSettings",
    "Problem",
    "QueueSettings",
    "RulesSettings",
    "SessionSettings",
    "SpoolSettings",
    "StreamSettings",
    "SubscriptionSettings",
    "expect_readable",
    "load",
    "parse",
]
