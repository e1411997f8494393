"""Configuration to components: the only place that knows both."""

import contextlib
import random
import secrets
import shutil
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from agent import machine
from agent.bell import Bell
from agent.boot_book import BootBook
from agent.clock import Clock
from agent.config import Config, HttpSettings, MqttSettings, StreamSettings, SubscriptionSettings
from agent.config.addresses import is_loopback
from agent.delivery.backoff import Backoff
from agent.delivery.outlet import Outlet
from agent.delivery.shipper import Shipper
from agent.delivery.transport import Transport
from agent.event import Event, Priority, Stream
from agent.ga4 import debug
from agent.ga4.policy import Policy, StreamKind
from agent.intake.attribution import Attribution, Device
from agent.intake.borrowed import salt_problem
from agent.intake.door import Door
from agent.intake.duplicates import Window
from agent.intake.http import Application, Guard, HttpSource
from agent.intake.identity import Identity, new_client_id
from agent.intake.judging import Judge
from agent.intake.mapping import Rule
from agent.intake.message import Message
from agent.intake.mqtt import Broker, MqttSource, Subscription, Tls
from agent.intake.parse import OWN_KEYS
from agent.intake.reception import Reception
from agent.intake.sessions import Sessions
from agent.intake.sorting import Sorted, Sorter
from agent.intake.source import Source
from agent.intake.spacing import Spacing
from agent.intake.spool import SOURCE as SPOOL
from agent.intake.spool import SpoolSource
from agent.queue.entries import SourceState
from agent.queue.event_queue import EventQueue
from agent.queue.failures import StorageError
from agent.secret import Secret, SecretError, find_secret
from agent.stepwise import Condemned, Stepwise
from agent.template import Template
from agent.topic import TopicFilter
from agent.urequests import Client

NOBODYS = Identity("1.1", "unknown")  # where an event is only looked at
MQTT = "mqtt"  # where the topics that the broker knows of are kept
MQTT_SESSION = "mqtt_session"  # where the name of the broker's session is kept
BAD_SHARE = 16  # bad spool files may have that part of the cap
MAPPED_TEXTS = (
    "client_id", "client_key", "app_instance_id", "user_id", "event_id", "actor", "session",
    "stream", "priority", "time",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What every component stands on, and what outlives a reload."""

    queue: EventQueue
    clock: Clock
    bell: Bell
    stepwise: Stepwise
    boots: BootBook
    identity: Identity
    window: Window
    spacing: Spacing = field(default_factory=Spacing)
    environ: Mapping[str, str]
    condemned: Condemned


def cap(config: Config) -> int:
    """Bytes that the queue and all beside it may take of the disk of the state directory."""
    there = next(p for p in (config.state_directory, *config.state_directory.parents) if p.exists())
    return config.queue.cap_on(shutil.disk_usage(there).total)


def boots(queue: EventQueue, clock: Clock) -> BootBook:
    """The history of the boots, with this one in it."""
    book = BootBook(
        clock=clock, load=queue.boots, store=lambda rows: queue.put_many([], boots=rows)
    )
    with contextlib.suppress(StorageError):
        book.begin(queue.newest_stamp())
    return book


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
        late=settings.late,
        on_uncertain=settings.on_uncertain,
        uncertain_time=settings.send_time_uncertain,
        traffic_type=settings.traffic_type,
        event_id=settings.send_event_id,
    )


def _secret(
    credential: str, file: Path | None, variable: str, environ: Mapping[str, str]
) -> tuple[Secret | None, str | None]:
    try:
        found = find_secret(credential=credential, file=file, variable=variable, environ=environ)
    except SecretError as error:
        return None, str(error)
    return found, None


def attribution(
    config: Config, identity: Identity, environ: Mapping[str, str]
) -> tuple[Attribution, list[str]]:
    """Whose events are, and what is wrong with the salt if it could not be had."""
    settings = config.device
    salt, problem = _secret("id_salt", settings.id_salt_file, "GA4_ID_SALT", environ)
    if salt is not None and (weak := salt_problem(salt)):
        salt, problem = None, weak
    found = machine.device() if settings.fill_in_hardware else {}
    device = Device(
        client_id=_or_auto(settings.client_id, identity.client_id),
        app_instance_id=settings.app_instance_id,
        user_id=settings.user_id,
        user_properties=settings.user_properties,
        consent=_said(settings.consent),
        hardware={**found, **_said(settings.hardware)},
        location=_said(settings.location),
    )
    return Attribution(device=device, salt=salt), [problem] if problem else []


def _said(settings: Any) -> dict[str, str]:
    """What a table says, without the keys that it leaves out."""
    return {name: value for name, value in asdict(settings).items() if value is not None}


def sessions(config: Config, ground: Ground) -> Sessions:
    """The sittings of the visitors."""
    return Sessions(
        load=ground.queue.session,
        boot_id=ground.clock.boot_id,
        timeout_s=config.session.timeout,
        longest_s=config.session.longest,
        per_sitting=config.device.visitor == "sitting" and config.device.client_id == "auto",
        new_client_id=lambda _start: new_client_id(),
    )


def door(
    config: Config,
    ground: Ground,
    made: Mapping[str, Stream],
    *,
    whose: Attribution,
    sittings: Sessions,
    on_taken: Callable[[Message, Sorted], None],
) -> Door:
    """The door that all sources share."""
    used = sittings if config.session.enabled else None
    return Door(
        queue=ground.queue,
        clock=ground.clock,
        sorter=_sorter(config, made, whose, ground.clock),
        reception=Reception(window=ground.window, sessions=used, spacing=ground.spacing),
        stepwise=ground.stepwise,
        condemned=ground.condemned,
        on_taken=on_taken,
    )


def _sorter(config: Config, made: Mapping[str, Stream], whose: Attribution, clock: Clock) -> Sorter:
    return Sorter(
        streams=made,
        judges={name: _judge(settings) for name, settings in config.stream.items()},
        attribution=whose,
        params=config.device.params,
        # With a letter first: BigQuery stores a param of digits, or 12e45678, as a number.
        new_id=lambda: f"e{secrets.token_hex(8)}",
        local=clock.stamp_of,
        now_us=clock.now_us,
        sessions=config.session.enabled,
    )


def _judge(settings: StreamSettings) -> Judge:
    return Judge(
        kind=_kind(settings),
        mode=settings.mode,
        policy=_policy(settings),
        debug=settings.debug,
        keep_pii=settings.keep_pii,
    )


def _kind(settings: StreamSettings) -> StreamKind:
    return "app" if settings.firebase_app_id else "web"


def _policy(settings: StreamSettings) -> Policy:
    rules = settings.rules
    return Policy(
        ga360=rules.ga360,
        item_custom_params=rules.item_custom_params,
        counting=rules.counting,
        numeric_texts=rules.numeric_texts,
        value_and_currency=rules.value_and_currency,
        client_ids=rules.client_ids,
        session_ids=rules.session_ids,
        user_data_needs_user_id=rules.user_data_needs_user_id,
        reserved_events=frozenset(rules.reserved_events),
        event_prefixes=rules.event_prefixes,
        future_us=round(rules.future * 1e6),
    )


def debug_answer(config: Config, clock: Clock, stream: str | None, body: bytes) -> dict[str, Any]:
    """What GA4 would say of a body for a stream (None: the default one), as JSON."""
    settings = config.stream.get(stream or config.default_stream or "", StreamSettings())
    policy = replace(_policy(settings), own_keys=OWN_KEYS)
    return debug.answer(body, stream=_kind(settings), now_us=clock.now_us(), policy=policy)


def dry_sorter(config: Config, identity: Identity = NOBODYS) -> Sorter:
    """A sorter to look what a message would become: without secrets, and nothing is kept."""
    made = {name: _stream(name, settings, None) for name, settings in config.stream.items()}
    whose, _ = attribution(config, identity, {})
    # An id of a key is one that nobody has: the salt may be the service's alone.
    whose = replace(whose, salt=Secret("stands in for the salt"))
    return _sorter(config, made, whose, Clock())


def shipper(
    config: Config, ground: Ground, made: Mapping[str, Stream], *, sittings: Sessions
) -> Shipper:
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
        when=ground.boots.when,
        session_id=partial(_session_id, ground, sittings),
        now_us=ground.clock.now_us,
        trusted=lambda: ground.clock.trusted,
        confirm=partial(_confirm, ground),
    )


def _session_id(ground: Ground, sittings: Sessions, event: Event) -> int:
    """The session of an event that was taken before the clock was right."""
    if event.sitting is None:
        raise ValueError("cannot find a session: the event belongs to no sitting")
    number, state = sittings.resolve(
        event.sitting.client, event.sitting.start, lambda stamp: ground.boots.when(stamp).us
    )
    if state is not None:
        # If the disk refuses, a crash could find another second: the next event tries again.
        with contextlib.suppress(StorageError):
            ground.queue.put_many([], sessions=[state])
    return number


def _confirm(ground: Ground, **answer: int) -> None:
    """Let the clock hear what time an answer named, and keep what it learns."""
    ground.clock.confirm(**answer)
    observe(ground)


def observe(ground: Ground) -> None:
    """Keep what the clock has learnt. If the disk refuses, it is kept with the next look."""
    with contextlib.suppress(StorageError):
        ground.boots.observe()


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
        session=ground.queue.source_state(MQTT_SESSION).get("name", ""),
        begin_session=lambda: _name_session(ground.queue),
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
        local=settings.clock == "device",
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
        clock=settings.clock,
    )


def spool(config: Config, ground: Ground, the_door: Door) -> SpoolSource:
    """The spool source."""
    return SpoolSource(
        door=the_door,
        clock=ground.clock,
        directory=config.spool_directory,
        marks=lambda: ground.queue.source_state(SPOOL),
        state_directory=config.state_directory,
        bad_max=ground.queue.max_bytes // BAD_SHARE,
        on_measured=partial(ground.queue.cap.note, "spool"),
    )


def _name_session(queue: EventQueue) -> str:
    """A name that no session had before, kept. Raises StorageError."""
    name = secrets.token_hex(8)
    queue.put_many([], state=[SourceState(MQTT_SESSION, "name", name)])
    return name


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
    debug: Callable[[str | None, bytes], Mapping[str, Any]],
    on_bug: Callable[[BaseException], None],
    on_turned_away: Callable[[str, str], None],
) -> HttpSource:
    """The HTTP source."""
    guard = Guard(
        hosts=frozenset(settings.hosts),
        origins=frozenset(settings.origins),
        token=token,
        check_host=settings.unix_path is None,
    )
    application = Application(
        door=the_door,
        guard=guard,
        streams=ids,
        status=status,
        debug=debug,
        on_bug=on_bug,
        on_turned_away=on_turned_away,
        local=settings.address is None or is_loopback(settings.address[0]),
    )
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
