"""Configuration to components: the only place that knows both."""

import contextlib
import random
import secrets
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.bell import Bell
from agent.clock import Clock
from agent.config import Config, HttpSettings, MqttSettings, StreamSettings, SubscriptionSettings
from agent.delivery.backoff import Backoff
from agent.delivery.outlet import Outlet
from agent.delivery.shipper import Shipper
from agent.delivery.transport import Transport
from agent.event import Priority, Stream
from agent.intake.door import Door
from agent.intake.http import Application, Guard, HttpSource
from agent.intake.identity import Device, Identity
from agent.intake.mapping import Rule
from agent.intake.mqtt import Broker, MqttSource, Subscription, Tls
from agent.intake.sorting import Message, Sorted, Sorter
from agent.intake.source import Source
from agent.intake.spool import SOURCE as SPOOL
from agent.intake.spool import SpoolSource
from agent.queue.event_queue import EventQueue, SourceState, StorageError
from agent.secret import Secret, SecretError, find_secret
from agent.stepwise import Condemned, Stepwise
from agent.template import Template
from agent.topic import TopicFilter
from agent.urequests import Client

MQTT = "mqtt"  # where the topics that the broker knows of are kept
MAPPED_TEXTS = (
    "client_id", "app_instance_id", "user_id", "event_id", "actor", "session", "stream", "priority",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What every component stands on, and what outlives a reload."""

    queue: EventQueue
    clock: Clock
    bell: Bell
    stepwise: Stepwise
    identity: Identity
    environ: Mapping[str, str]
    condemned: Condemned


def streams(
    config: Config, environ: Mapping[str, str], credentials: Path | None = None
) -> tuple[dict[str, Stream], list[str]]:
    """The streams with their secrets, and what is wrong with secrets that could not be had.

    ``credentials``: the folder that systemd hands to the service, for a command that runs
    without systemd.
    """
    made: dict[str, Stream] = {}
    problems: list[str] = []
    for name, settings in config.stream.items():
        secret, problem = _secret(
            f"api_secret_{name}", settings.api_secret_file, "GA4_API_SECRET", environ
        )
        if secret is None and not problem and credentials:
            handed = {"CREDENTIALS_DIRECTORY": str(credentials)}
            secret, problem = _secret(name, None, "", handed)
        problems += [problem] if problem else []
        made[name] = _stream(name, settings, secret)
    return made, problems


def _stream(name: str, settings: StreamSettings, secret: Secret | None) -> Stream:
    return Stream(
        name=name,
        endpoint=settings.endpoint,
        measurement_id=settings.measurement_id,
        firebase_app_id=settings.firebase_app_id,
        secret=secret,
        accept_body=settings.accept_body,
    )


def _secret(
    credential: str, file: Path | None, variable: str, environ: Mapping[str, str]
) -> tuple[Secret | None, str | None]:
    try:
        found = find_secret(credential=credential, file=file, variable=variable, environ=environ)
    except SecretError as error:
        return None, str(error)
    return found, None


def door(
    config: Config,
    ground: Ground,
    made: Mapping[str, Stream],
    *,
    on_taken: Callable[[Message, Sorted], None],
) -> Door:
    """The door that all sources share."""
    return Door(
        queue=ground.queue,
        clock=ground.clock,
        sorter=sorter(config, ground.identity, made),
        stepwise=ground.stepwise,
        condemned=ground.condemned,
        on_taken=on_taken,
    )


def sorter(config: Config, identity: Identity, made: Mapping[str, Stream]) -> Sorter:
    """What completes messages with what the device knows."""
    device = Device(
        client_id=_or_auto(config.device.client_id, identity.client_id),
        app_instance_id=config.device.app_instance_id,
        user_id=config.device.user_id,
        user_properties=config.device.user_properties,
    )
    return Sorter(
        streams=made,
        device=device,
        params=config.device.params,
        new_id=lambda: secrets.token_hex(8),
    )


def dry_sorter(config: Config) -> Sorter:
    """A sorter to look what a message would become, without the state directory's ids."""
    made = {name: _stream(name, settings, None) for name, settings in config.stream.items()}
    return sorter(config, Identity("1.1", "unknown"), made)


def shipper(config: Config, ground: Ground, made: Mapping[str, Stream]) -> Shipper:
    """The shipper with an outlet for each stream."""
    delivery, network = config.delivery, config.network
    outlets = [
        Outlet(
            stream=stream,
            backoff=Backoff(random=random.random),
            connections=delivery.connections,
            monotonic=time.monotonic,
            takes_unassigned=stream is next(iter(made.values())),
        )
        for stream in made.values()
    ]
    ca_file = str(network.ca_file) if network.ca_file else None
    transport = Transport(
        client=lambda: Client(proxy=network.proxy, ca_file=ca_file, deadline=delivery.timeout)
    )
    return Shipper(
        queue=ground.queue,
        outlets=outlets,
        transport=transport,
        clock=ground.clock,
        bell=ground.bell,
        stepwise=ground.stepwise,
        max_delay=delivery.max_delay,
    )


def sources(config: Config, ground: Ground, the_door: Door) -> tuple[dict[str, Source], list[str]]:
    """The sources beside HTTP, and what is wrong with their secrets."""
    made: dict[str, Source] = {}
    problems: list[str] = []
    if config.mqtt is not None:
        made["mqtt"], problems = mqtt(config.mqtt, ground, the_door, streams=config.stream)
    if config.spool.enabled:
        made["spool"] = spool(config, ground, the_door)
    return made, problems


def mqtt(
    settings: MqttSettings, ground: Ground, the_door: Door, *, streams: Collection[str]
) -> tuple[MqttSource, list[str]]:
    """The MQTT source, and what is wrong with its password if it could not be had."""
    password, problem = _secret(
        "mqtt_password", settings.password_file, "GA4_MQTT_PASSWORD", ground.environ
    )
    source = MqttSource(
        door=the_door,
        broker=_broker(settings, password, ground.identity),
        subscriptions=subscriptions(settings, streams),
        reconnect_max=settings.reconnect_max,
        random=random.random,
        known_topics=ground.queue.source_state(MQTT),
        remember=lambda topics: _remember_topics(ground.queue, topics),
    )
    return source, [problem] if problem else []


def subscriptions(settings: MqttSettings, streams: Collection[str]) -> list[Subscription]:
    """What is subscribed; ``streams``: the names that a mapping may pick."""
    return [_subscription(each, streams) for each in settings.subscriptions]


def _subscription(settings: SubscriptionSettings, streams: Collection[str]) -> Subscription:
    """A stream or priority that a message decides is the rule's."""
    topic = TopicFilter.read(settings.topic)
    fixed = {
        key: text
        for key in ("stream", "priority")
        if (text := getattr(settings, key)) and Template.read(text, topic.names).constant
    }
    return Subscription(
        topic=topic.plain,
        stream=fixed.get("stream"),
        priority=Priority[fixed.get("priority", "normal").upper()],
        retained=settings.retained,
        rule=_rule(settings, topic, streams, fixed),
    )


def _rule(
    settings: SubscriptionSettings,
    topic: TopicFilter,
    streams: Collection[str],
    fixed: Collection[str],
) -> Rule | None:
    """The mapping; None where there is none."""
    said = {"name": settings.event} | {key: getattr(settings, key) for key in MAPPED_TEXTS}
    texts = {key: text for key, text in said.items() if text is not None and key not in fixed}
    if not texts and not settings.params and not settings.user_properties:
        return None
    return Rule.read(
        topic,
        texts=texts,
        params=settings.params,
        user_properties=settings.user_properties,
        streams=streams,
    )


def spool(config: Config, ground: Ground, the_door: Door) -> SpoolSource:
    """The spool source."""
    return SpoolSource(
        door=the_door,
        clock=ground.clock,
        directory=config.spool_directory,
        marks=lambda: ground.queue.source_state(SPOOL),
        state_directory=config.state_directory,
    )


def _remember_topics(queue: EventQueue, topics: Sequence[str]) -> None:
    """Keep the topics that the broker knows of. If the disk refuses, it is asked again later."""
    gone = queue.source_state(MQTT).keys() - set(topics)
    state = [SourceState(MQTT, topic, "") for topic in topics]
    with contextlib.suppress(StorageError):
        queue.put_many([], state=[*state, *(SourceState(MQTT, topic, None) for topic in gone)])


def _broker(settings: MqttSettings, password: Secret | None, identity: Identity) -> Broker:
    tls = Tls(
        ca_file=settings.ca_file,
        certificate_file=settings.certificate_file,
        key_file=settings.key_file,
    )
    return Broker(
        host=settings.host,
        port=settings.broker_port,
        client_id=_or_auto(settings.client_id, identity.mqtt_client_id),
        username=settings.username,
        password=password,
        protocol=settings.protocol,
        keepalive=settings.keepalive,
        session_expiry=settings.session_expiry,
        tls=tls if settings.tls else None,
    )


def http_token(
    settings: HttpSettings, environ: Mapping[str, str]
) -> tuple[Secret | None, str | None]:
    """The token that HTTP asks for, if any, and what is wrong with it if it cannot be had."""
    return _secret("http_token", settings.token_file, "GA4_HTTP_TOKEN", environ)


def http(
    settings: HttpSettings,
    token: Secret | None,
    *,
    the_door: Callable[[], Door],
    ids: Callable[[], Mapping[str, str]],
    status: Callable[[], Mapping[str, Any]],
    on_bug: Callable[[BaseException], None],
) -> HttpSource:
    """The HTTP source."""
    guard = Guard(
        hosts=frozenset(settings.hosts),
        origins=frozenset(settings.origins),
        token=token,
        check_host=settings.unix_path is None,
    )
    application = Application(door=the_door, guard=guard, streams=ids, status=status, on_bug=on_bug)
    return HttpSource(
        application=application,
        address=settings.address,
        unix_path=settings.unix_path,
        threads=settings.threads,
        max_body=settings.max_body,
        read_deadline=settings.read_deadline,
    )


def unreadable_files(config: Config, environ: Mapping[str, str]) -> list[str]:
    """What is wrong with the other files that a configuration names: secrets, certificates."""
    _, http_problem = http_token(config.http, environ)
    problems = [http_problem] if http_problem and config.http.enabled else []
    files: list[Path | None] = [config.network.ca_file]
    if config.mqtt is not None:
        mqtt = config.mqtt
        files += [mqtt.ca_file, mqtt.certificate_file, mqtt.key_file]
        _, problem = _secret("mqtt_password", mqtt.password_file, "GA4_MQTT_PASSWORD", environ)
        problems += [problem] if problem else []
    for file in filter(None, files):
        try:
            file.open("rb").close()
        except OSError as error:
            problems.append(f"cannot read {file}: {error.strerror}; check the path and its mode")
    return problems


def stream_ids(made: Mapping[str, Stream]) -> dict[str, str]:
    """GA4's id to our name: what a query may pick a stream by."""
    return {(s.measurement_id or s.firebase_app_id or ""): name for name, s in made.items()}


def _or_auto(configured: str, made: str) -> str:
    return made if configured == "auto" else configured
