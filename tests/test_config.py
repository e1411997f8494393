"""The configuration: what loads, what each key accepts, and every problem told at once."""

import dataclasses
import json
import re
import traceback
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config import (
    Config,
    ConfigError,
    ConsentSettings,
    DeliverySettings,
    DeviceSettings,
    HardwareSettings,
    HttpSettings,
    LocationSettings,
    LogSettings,
    MqttSettings,
    NetworkSettings,
    Problem,
    QueueSettings,
    RulesSettings,
    SessionSettings,
    SpoolSettings,
    StreamSettings,
    SubscriptionSettings,
    load,
    parse,
)
from agent.ga4.policy import Policy

FOLDER = Path(__file__).parent.parent / "device_configs"
STREAM = '[stream.main]\nmeasurement_id = "G-ABCDE12345"\n'
TOPIC = '[[mqtt.subscriptions]]\ntopic = "kiosk/events"\n'
MQTT = '[mqtt]\nhost = "127.0.0.1"\n'


def problems(text):
    with pytest.raises(ConfigError) as refused:
        parse(text, name="F")
    assert refused.value.__context__ is None  # the parser's exceptions hold the file's text
    return refused.value.problems


def lines(text):
    return [str(problem) for problem in problems(text)]


# What loads


def test_an_empty_file_is_a_whole_configuration():
    config = parse("", name="F")
    assert config == Config()
    assert config.state_directory == Path("/var/lib/ga4-agent")
    assert config.http == HttpSettings(enabled=True, listen="127.0.0.1:8787", max_body=1048576)
    assert config.queue.max_bytes == "auto"
    assert config.queue.on_full == "evict"
    assert config.delivery == DeliverySettings(max_delay=2.0, timeout=20.0, connections=4)
    assert config.mqtt is None
    assert config.default_stream is None


def test_a_full_file_loads_with_durations_in_seconds_and_sizes_in_bytes():
    config = parse(
        """
        state_directory = "/data/agent"
        volatile = true
        [stream.web]
        measurement_id = "G-ABCDE12345"
        endpoint = "https://region1.google-analytics.com/"
        [stream.app]
        firebase_app_id = "1:1233455666:android:abcdefgh"
        api_secret_file = "/etc/secret"
        accept_body = true
        mode = "strict"
        debug = true
        traffic_type = "internal"
        late = "restamp"
        on_uncertain = "lose"
        send_event_id = false
        send_time_uncertain = false
        keep_pii = true
        [stream.app.rules]
        ga360 = true
        item_custom_params = 10
        counting = "url_encoded"
        numeric_texts = false
        value_and_currency = "event_builder"
        client_ids = "recommended"
        session_ids = "any"
        user_data_needs_user_id = true
        reserved_events = ["click"]
        event_prefixes = ["ga_"]
        future = "1 min"
        [device]
        client_id = "123.456"
        app_instance_id = "0123456789abcdefABCDEF0123456789"
        user_id = "operator"
        user_properties = { tier = "flagship" }
        params = { site = "store-12", floor = 2, share = 0.5, open = true }
        id_salt_file = "/etc/salt"
        fill_in_hardware = false
        consent = { ad_user_data = "GRANTED" }
        hardware = { category = "smart tv", screen_resolution = "1920x1080", language = "de" }
        location = { city = "Köln", region_id = "DE-NW", country_id = "DE", continent_id = "150" }
        [session]
        enabled = false
        timeout = "2 min"
        longest = "1 h"
        [http]
        listen = "unix:/run/a.sock"
        hosts = ["Kiosk.local", "::1"]
        origins = ["https://kiosk.example:8443", "null"]
        max_body = "130 KiB"
        read_deadline = "1500 ms"
        threads = 2
        [mqtt]
        host = "broker.example"
        tls = true
        ca_file = "/ca.pem"
        certificate_file = "/c.pem"
        key_file = "/k.pem"
        username = "kiosk"
        keepalive = "2 min"
        session_expiry = "1 day"
        [[mqtt.subscriptions]]
        topic = "$share/agents/kiosk/+/events"
        stream = "app"
        priority = "high"
        retained = true
        [queue]
        max_bytes = "1 GiB"
        [delivery]
        max_delay = "0 s"
        [network]
        proxy = "http://user:pass@proxy:3128"
        ca_file = "/net.pem"
        [log]
        level = "debug"
        """,
        name="F",
    )
    assert config == Config(
        state_directory=Path("/data/agent"),
        volatile=True,
        stream={
            "web": StreamSettings(
                measurement_id="G-ABCDE12345", endpoint="https://region1.google-analytics.com"
            ),
            "app": StreamSettings(
                firebase_app_id="1:1233455666:android:abcdefgh",
                api_secret_file=Path("/etc/secret"),
                accept_body=True,
                mode="strict",
                debug=True,
                traffic_type="internal",
                late="restamp",
                on_uncertain="lose",
                send_event_id=False,
                send_time_uncertain=False,
                keep_pii=True,
                rules=RulesSettings(
                    ga360=True,
                    item_custom_params=10,
                    counting="url_encoded",
                    numeric_texts=False,
                    value_and_currency="event_builder",
                    client_ids="recommended",
                    session_ids="any",
                    user_data_needs_user_id=True,
                    reserved_events=("click",),
                    event_prefixes=("ga_",),
                    future=60.0,
                ),
            ),
        },
        device=DeviceSettings(
            client_id="123.456",
            app_instance_id="0123456789abcdefABCDEF0123456789",
            user_id="operator",
            user_properties={"tier": "flagship"},
            params={"site": "store-12", "floor": 2, "share": 0.5, "open": True},
            id_salt_file=Path("/etc/salt"),
            fill_in_hardware=False,
            consent=ConsentSettings(ad_user_data="GRANTED", ad_personalization="DENIED"),
            hardware=HardwareSettings(
                category="smart tv", screen_resolution="1920x1080", language="de"
            ),
            location=LocationSettings(
                city="Köln", region_id="DE-NW", country_id="DE", continent_id="150"
            ),
        ),
        session=SessionSettings(enabled=False, timeout=120.0, longest=3600.0),
        http=HttpSettings(
            listen="unix:/run/a.sock",
            hosts=("kiosk.local", "::1"),
            origins=("https://kiosk.example:8443", "null"),
            max_body=133_120,
            read_deadline=1.5,
            threads=2,
        ),
        mqtt=MqttSettings(
            host="broker.example",
            tls=True,
            ca_file=Path("/ca.pem"),
            certificate_file=Path("/c.pem"),
            key_file=Path("/k.pem"),
            username="kiosk",
            keepalive=120.0,
            session_expiry=86_400.0,
            subscriptions=(
                SubscriptionSettings(
                    topic="$share/agents/kiosk/+/events",
                    stream="app",
                    priority="high",
                    retained=True,
                ),
            ),
        ),
        queue=QueueSettings(max_bytes=2**30),
        delivery=DeliverySettings(max_delay=0.0),
        network=NetworkSettings(proxy="http://user:pass@proxy:3128", ca_file=Path("/net.pem")),
        log=LogSettings(level="debug"),
    )
    assert type(config.device.params["open"]) is bool
    assert type(config.device.params["floor"]) is int


def test_events_are_repaired_and_nothing_personal_is_sent_unless_the_file_says_otherwise():
    stream, config = parse(STREAM, name="F").stream["main"], Config()
    assert (stream.mode, stream.late, stream.on_uncertain) == ("repair", "dead", "repeat")
    assert (stream.debug, stream.keep_pii, stream.traffic_type) == (False, False, None)
    assert (stream.send_event_id, stream.send_time_uncertain) == (True, True)
    assert config.device.visitor == "device"
    assert config.device.consent == ConsentSettings(
        ad_user_data="DENIED", ad_personalization="DENIED"
    )
    assert config.device.hardware == HardwareSettings()  # a category is never guessed
    assert config.session == SessionSettings(enabled=True, timeout=1800.0, longest=86_400.0)


def test_the_rules_of_a_stream_are_those_of_validation_unless_the_file_says_otherwise():
    rules, policy = dataclasses.asdict(RulesSettings()), dataclasses.asdict(Policy())
    assert rules.pop("future") * 1_000_000 == policy["future_us"]
    for key, value in rules.items():
        assert (frozenset(value) if key == "reserved_events" else value) == policy[key], key


def test_the_first_stream_of_the_file_is_the_default_one():
    text = "".join(f'[stream.{name}]\nmeasurement_id = "G-1"\n' for name in "zam")
    config = parse(text, name="F")
    assert list(config.stream) == ["z", "a", "m"]
    assert config.default_stream == "z"


def test_the_spool_folder_lies_in_the_state_directory_unless_it_is_named():
    assert parse('state_directory = "/s"', name="F").spool_directory == Path("/s/spool")
    assert parse('[spool]\ndirectory = "/x"', name="F").spool_directory == Path("/x")


def test_http_is_turned_off_by_its_table_and_on_without_one():
    assert parse("[http]\nenabled = false", name="F").http.enabled is False
    assert parse("", name="F").http.enabled is True


@pytest.mark.parametrize(
    ("listen", "address", "unix_path"),
    [
        ("127.0.0.1:8787", ("127.0.0.1", 8787), None),
        ("localhost:0", ("localhost", 0), None),
        ("[::1]:8787", ("::1", 8787), None),
        ("unix:/run/agent.sock", None, Path("/run/agent.sock")),
    ],
)
def test_listen_is_given_as_an_address_or_a_unix_path(listen, address, unix_path):
    http = parse(f'[http]\nlisten = "{listen}"', name="F").http
    assert (http.address, http.unix_path) == (address, unix_path)


@pytest.mark.parametrize(
    ("more", "port"),
    [("", 1883), ("tls = true", 8883), ("port = 99", 99), ("port = 99\ntls = true", 99)],
)
def test_the_port_of_the_broker_follows_tls_unless_it_is_given(more, port):
    assert parse(f"{MQTT}{more}\n{TOPIC}", name="F").mqtt.broker_port == port


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.9.9:8790", "[::1]:8790"])
def test_an_endpoint_without_tls_is_taken_on_this_machine(host):
    stream = parse(f'{STREAM}endpoint = "http://{host}/"', name="F").stream["main"]
    assert stream.endpoint == f"http://{host}"


def test_an_endpoint_is_kept_in_lower_case_so_that_hosts_can_be_compared():
    stream = parse(f'{STREAM}endpoint = "HTTPS://GA.Example:8443/"', name="F").stream["main"]
    assert stream.endpoint == "https://ga.example:8443"


@pytest.mark.parametrize(
    "topic",
    [
        "a",
        "/",
        "a//b",
        "+",
        "#",
        "+/a/+",
        "a/#",
        "/+/#",
        "$SYS/#",
        "$share/g/a/+/#",
        "ä b/c",
        "a/+b/c",
        "+_a/+B2/#rest",
        "$share/g/+site/#",
    ],
)
def test_sound_topic_filters_are_taken(topic):
    text = f"{MQTT}[[mqtt.subscriptions]]\ntopic = {json.dumps(topic, ensure_ascii=False)}"
    assert parse(text, name="F").mqtt.subscriptions[0].topic == topic


def test_a_configuration_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().volatile = True


def test_what_may_be_secret_or_personal_is_not_in_the_repr_of_a_configuration():
    config = parse(
        '[network]\nproxy = "http://marker1:marker2@p:1"\n[device]\nclient_id = "marker3"\n'
        'user_id = "marker4"\nuser_properties = { a = "marker5" }\nparams = { a = "marker6" }\n'
        'hardware.model = "marker9"\nlocation.city = "marker10"\n'
        f'{MQTT}username = "marker7"\nclient_id = "marker8"\n{TOPIC}',
        name="F",
    )
    assert config.network.proxy == "http://marker1:marker2@p:1"
    assert "marker" not in repr(config)


# Problems of single keys

A_DURATION = (
    'a duration such as "2 s", with one of the units ms, s, sec, min, h, hour, hours, d, day, days'
)
ENDPOINT = "an https URL of host and perhaps port, or an http URL of this machine itself"
ABSOLUTE = "an absolute path, one that starts with /"
HOST = "a host name or an IP address, without scheme and port"
LISTEN = '"IP:PORT", "[IPv6]:PORT" or "unix:/PATH" (107 bytes of path at most)'
SCALAR = "a text, true or false, or a finite number of 64 bits at most"
MEASUREMENT = "a measurement id such as G-ABCDE12345"
FIREBASE = "a Firebase app id such as 1:1234567890:android:abcdef012345"
PROXY = "a proxy URL such as http://HOST:PORT or http://USER:PASSWORD@HOST:PORT"
NOT_SHOWN = "another text (not shown)"
MAYBE_SECRET = "a text that may hold a secret (not shown)"
LEVEL_PLUS = "+ as a whole level, as in kiosk/+/events"
WILDCARD_NAMES = "names of letters, digits and _ behind + and #, as in kiosk/+site/#rest"
LEVEL_HASH = "# as the whole last level, as in kiosk/#"
TRAFFIC_TYPE = ANY_HARDWARE = "a text of 1 to 100 characters"
EVENT_NAME = "a letter, then up to 39 letters, digits and _"
ORIGIN = 'an origin such as "https://kiosk.example", or "null" for pages from files'

TOP = [
    ('state_directory = "state"', "state_directory", "'state'", ABSOLUTE),
    ('state_directory = "~/state"', "state_directory", "'~/state'", ABSOLUTE),
    ('state_directory = "/a\\u0000b"', "state_directory", r"'/a\x00b'", ABSOLUTE),
    ("state_directory = 1", "state_directory", "1", ABSOLUTE),
    ("volatile = 1", "volatile", "1", "true or false"),
    ('volatile = "true"', "volatile", "'true'", "true or false"),
    ("volatile = 2026-01-01", "volatile", "a date or time", "true or false"),
    ("http = 1", "http", "a number", "a table [http]"),
    ('mqtt = "x"', "mqtt", "a text", "a table [mqtt]"),
    ("queue = []", "queue", "an empty array", "a table [queue]"),
    ("stream = []", "stream", "an empty array", "tables such as [stream.main]"),
    ('[stream]\napi_secret = "x"', "stream.api_secret", "a text", "a table [stream.NAME]"),
    (
        '[stream."a b"]\nmeasurement_id = "G-1"',
        "stream.'a b'",
        "'a b'",
        "a name of 1 to 32 letters, digits, _ and -",
    ),
]
TABLES = {
    "stream.main": [
        ('mode = "fix"', "mode", "'fix'", '"repair" or "strict" or "off"'),
        ("mode = false", "mode", "false", '"repair" or "strict" or "off"'),
        ("debug = 1", "debug", "1", "true or false"),
        ('traffic_type = ""', "traffic_type", "''", TRAFFIC_TYPE),
        (f'traffic_type = "{"x" * 101}"', "traffic_type", repr("x" * 60 + "…"), TRAFFIC_TYPE),
        ("traffic_type = true", "traffic_type", "true", TRAFFIC_TYPE),
        ('late = "drop"', "late", "'drop'", '"dead" or "restamp" or "send"'),
        ('on_uncertain = "ask"', "on_uncertain", "'ask'", '"repeat" or "lose"'),
        ("send_event_id = 0", "send_event_id", "0", "true or false"),
        ("send_time_uncertain = 0", "send_time_uncertain", "0", "true or false"),
        ("keep_pii = 0", "keep_pii", "0", "true or false"),
        ("rules = 1", "rules", "a number", "a table [stream.NAME.rules]"),
        ('measurement_id = "UA-1"', "measurement_id", "'UA-1'", MEASUREMENT),
        ('measurement_id = "g-abc"', "measurement_id", "'g-abc'", MEASUREMENT),
        ('measurement_id = "G-A\\n"', "measurement_id", r"'G-A\n'", MEASUREMENT),
        ('firebase_app_id = "1:2:android"', "firebase_app_id", "'1:2:android'", FIREBASE),
        ("firebase_app_id = 12", "firebase_app_id", "12", FIREBASE),
    ],
    "stream.main.rules": [
        ("ga360 = 1", "ga360", "1", "true or false"),
        (
            "item_custom_params = 101",
            "item_custom_params",
            "101",
            "a whole number from 0 to 100",
        ),
        ('counting = "bytes"', "counting", "'bytes'", '"characters" or "url_encoded"'),
        ("numeric_texts = 1", "numeric_texts", "1", "true or false"),
        (
            "value_and_currency = true",
            "value_and_currency",
            "true",
            '"documented" or "event_builder"',
        ),
        ('client_ids = "all"', "client_ids", "'all'", '"any" or "recommended"'),
        ('session_ids = "all"', "session_ids", "'all'", '"documented" or "any"'),
        ("user_data_needs_user_id = 1", "user_data_needs_user_id", "1", "true or false"),
        ('reserved_events = "click"', "reserved_events", "a text", "an array of event names"),
        ('reserved_events = ["a b"]', "reserved_events[0]", "'a b'", EVENT_NAME),
        ("event_prefixes = [1]", "event_prefixes[0]", "1", EVENT_NAME),
        ('future = "25 h"', "future", "'25 h'", "a duration from 0 s to 24 h"),
    ],
    "session": [
        ("enabled = 1", "enabled", "1", "true or false"),
        ('timeout = "5 h"', "timeout", "'5 h'", "a duration from 1 s to 4 h"),
        ('longest = "25 h"', "longest", "'25 h'", "a duration from 1 s to 24 h"),
    ],
    "device.consent": [
        ('ad_user_data = "granted"', "ad_user_data", "'granted'", '"GRANTED" or "DENIED"'),
        ("ad_personalization = true", "ad_personalization", "true", '"GRANTED" or "DENIED"'),
    ],
    "device.hardware": [
        ('category = ""', "category", "''", "a text of 1 to 100 characters"),
        (
            'screen_resolution = "1920 x 1080"',
            "screen_resolution",
            "'1920 x 1080'",
            'a text like "1920x1080"',
        ),
        ("operating_system_version = 12", "operating_system_version", "12", ANY_HARDWARE),
        ('model = "a\\nb"', "model", r"'a\nb'", ANY_HARDWARE),
        (f'brand = "{"x" * 101}"', "brand", repr("x" * 60 + "…"), ANY_HARDWARE),
    ],
    "device.location": [
        ('city = " "', "city", "' '", "a text of 1 to 100 characters"),
        ('region_id = "NW"', "region_id", "'NW'", 'a text like "US-CA" (ISO 3166-2)'),
        ('country_id = "de"', "country_id", "'de'", 'a text like "US" (ISO 3166-1)'),
        ("subcontinent_id = 21", "subcontinent_id", "21", 'a text like "021" (UN M49)'),
        ('continent_id = "19"', "continent_id", "'19'", 'a text like "019" (UN M49)'),
    ],
    "device": [
        ('visitor = "person"', "visitor", "'person'", '"device" or "sitting"'),
        ("fill_in_hardware = 1", "fill_in_hardware", "1", "true or false"),
        ('id_salt_file = "the salt itself"', "id_salt_file", NOT_SHOWN, ABSOLUTE),
        ("consent = 1", "consent", "a number", "a table [device.consent]"),
        ("hardware = []", "hardware", "an empty array", "a table [device.hardware]"),
        ("location = 1", "location", "a number", "a table [device.location]"),
        ('client_id = ""', "client_id", NOT_SHOWN, '"auto" or a client id of one line'),
        ('client_id = "a\\nb"', "client_id", NOT_SHOWN, '"auto" or a client id of one line'),
        ("client_id = 12.5", "client_id", "a number", '"auto" or a client id of one line'),
        ('app_instance_id = "ff"', "app_instance_id", NOT_SHOWN, "32 hexadecimal digits"),
        ('user_id = ""', "user_id", NOT_SHOWN, "a user id of 1 to 256 characters"),
        ("params = 1", "params", "a number", "a table of names and values"),
        ("params = { a = nan }", "params.a", "nan", SCALAR),
        ("params = { a = -inf }", "params.a", "-inf", SCALAR),
        ("params = { a = [1] }", "params.a", "an array", SCALAR),
        ("params = { a = { b = 1 } }", "params.a", "a table", SCALAR),
        ("params = { a = 2026-01-01 }", "params.a", "a date or time", SCALAR),
        (
            "params = { a = 9223372036854775808 }",
            "params.a",
            "a number of more than 64 bits",
            SCALAR,
        ),
        ('user_properties = { "a b" = inf }', "user_properties.'a b'", "inf", SCALAR),
    ],
    "http": [
        ("enabled = 0", "enabled", "0", "true or false"),
        ('listen = "8787"', "listen", "'8787'", LISTEN),
        ('listen = "::1:8787"', "listen", "'::1:8787'", LISTEN),
        ('listen = "[127.0.0.1]:1"', "listen", "'[127.0.0.1]:1'", LISTEN),
        ('listen = "127.0.0.1:65536"', "listen", "'127.0.0.1:65536'", LISTEN),
        ('listen = "kiosk:8787"', "listen", "'kiosk:8787'", LISTEN),
        ('listen = "unix:run"', "listen", "'unix:run'", LISTEN),
        ('token_file = "the-token-itself"', "token_file", NOT_SHOWN, ABSOLUTE),
        ('hosts = "kiosk"', "hosts", "a text", "an array of host names"),
        ('hosts = ["a", "b:1"]', "hosts[1]", "'b:1'", HOST),
        ('origins = ["*"]', "origins[0]", "'*'", ORIGIN),
        ('origins = ["https://a/"]', "origins[0]", "'https://a/'", ORIGIN),
        ("max_body = 4096", "max_body", "4096", 'a size with a unit such as "4096 MiB"'),
        ('max_body = "1 KiB"', "max_body", "'1 KiB'", "a size from 128 KiB to 16 MiB"),
        ("read_deadline = []", "read_deadline", "an empty array", "a duration from 1 s to 2 min"),
        ("threads = 1", "threads", "1", "a whole number from 2 to 64"),
        ("threads = true", "threads", "true", "a whole number from 2 to 64"),
        ("threads = 8.0", "threads", "8.0", "a whole number from 2 to 64"),
        ('threads = "8"', "threads", "'8'", "a whole number from 2 to 64"),
        (f"threads = {10**25}", "threads", "a huge number", "a whole number from 2 to 64"),
    ],
    "spool": [
        ('directory = "spool"', "directory", "'spool'", ABSOLUTE),
        ("enabled = 1", "enabled", "1", "true or false"),
    ],
    "queue": [
        ('max_bytes = "1 MiB"', "max_bytes", "'1 MiB'", '"auto" or a size from 4 MiB to 256 GiB'),
        ("max_bytes = []", "max_bytes", "an empty array", '"auto" or a size from 4 MiB to 256 GiB'),
    ],
    "delivery": [
        ('max_delay = "2"', "max_delay", "'2'", 'a duration with a unit such as "2 s"'),
        ('max_delay = "soon"', "max_delay", "'soon'", A_DURATION),
        ('max_delay = "2 h"', "max_delay", "'2 h'", "a duration from 0 s to 1 h"),
        ('timeout = "0 s"', "timeout", "'0 s'", "a duration from 1 s to 2 min"),
        ("connections = 17", "connections", "17", "a whole number from 1 to 16"),
    ],
    "network": [
        ('proxy = "socks5://u:p@x"', "proxy", NOT_SHOWN, PROXY),
        ('proxy = "u:p@x:3128"', "proxy", NOT_SHOWN, PROXY),
        ('proxy = "http://x:port"', "proxy", NOT_SHOWN, PROXY),
        ("proxy = 3128", "proxy", "a number", PROXY),
        ('ca_file = "ca.pem"', "ca_file", "'ca.pem'", ABSOLUTE),
    ],
    "log": [('level = "loud"', "level", "'loud'", '"info" or "debug" or "warning"')],
}
MQTT_KEYS = [
    ('host = "mqtt://b"', "host", "'mqtt://b'", HOST),
    ('host = "mqtt://u:p@b"', "host", MAYBE_SECRET, HOST),
    ('host = ""', "host", "''", HOST),
    ("port = 0", "port", "0", "a whole number from 1 to 65535"),
    ('protocol = "4"', "protocol", "'4'", '"5" or "3.1.1"'),
    ('keepalive = "1 s"', "keepalive", "'1 s'", "a duration from 5 s to 20 min"),
    ('session_expiry = "2 s"', "session_expiry", "'2 s'", "a duration from 1 min to 365 days"),
    ('reconnect_max = "1 h"', "reconnect_max", "'1 h'", "a duration from 1 s to 10 min"),
    ('username = ""', "username", NOT_SHOWN, "a username of one line"),
    ('password_file = "pw"', "password_file", NOT_SHOWN, ABSOLUTE),
]
TOPICS = [
    ("", "''", "a topic or a filter such as kiosk/+/events"),
    ("a+", "'a+'", LEVEL_PLUS),
    ("a/b+/c", "'a/b+/c'", LEVEL_PLUS),
    ("a/+b+/c", "'a/+b+/c'", LEVEL_PLUS),
    ("a/#b/c", "'a/#b/c'", LEVEL_HASH),
    ("a/+1b/c", "'a/+1b/c'", WILDCARD_NAMES),
    ("a/+b-c/d", "'a/+b-c/d'", WILDCARD_NAMES),
    ("a/#b c", "'a/#b c'", WILDCARD_NAMES),
    ("+json/a", "'+json/a'", "other names of wildcards than json, item, value, topic"),
    ("+a/#a", "'+a/#a'", "each name of a wildcard once"),
    ("$share/+g/a", "'$share/+g/a'", "$share/GROUP/FILTER, the group without + and #"),
    ("a/#/b", "'a/#/b'", LEVEL_HASH),
    ("a#", "'a#'", LEVEL_HASH),
    ("a\\u0000", r"'a\x00'", "no NUL and 65535 bytes at most"),
    ("ä" * 32_768, repr("ä" * 60 + "…"), "no NUL and 65535 bytes at most"),
    ("$share/g", "'$share/g'", "$share/GROUP/FILTER, the group without + and #"),
    ("$share//a", "'$share//a'", "$share/GROUP/FILTER, the group without + and #"),
    ("$share/+/a", "'$share/+/a'", "$share/GROUP/FILTER, the group without + and #"),
    ("$share/g/a#", "'$share/g/a#'", LEVEL_HASH),
]
ENDPOINTS = [
    ("http://www.google-analytics.com", "'http://www.google-analytics.com'", ""),
    ("http://127.1", "'http://127.1'", ""),
    ("http://localhost.example", "'http://localhost.example'", ""),
    ("www.google-analytics.com", "'www.google-analytics.com'", ""),
    ("https://", "'https://'", ""),
    ("https://a:99999", "'https://a:99999'", ""),
    ("https://a:", "'https://a:'", ""),
    ("https://[::1", "'https://[::1'", ""),
    ("https://a b", "'https://a b'", ""),
    ("https://a\\tb", r"'https://a\tb'", ""),
    ("https://a\\\\b", r"'https://a\\b'", ""),
    ("https://a/x", "'https://a/x'", ""),
    ("https://a#x", "'https://a#x'", ""),
    ("https://a/mp/collect", "'https://a/mp/collect'", "; leave the path out: the agent adds it"),
    ("https://a?api_secret=x", MAYBE_SECRET, ""),
    ("https://u:p@a", MAYBE_SECRET, ""),
    ("ftp://127.0.0.1", "'ftp://127.0.0.1'", ""),
]


def table_cases():
    for table, cases in TABLES.items():
        prefix = {"stream.main": STREAM, "stream.main.rules": f"{STREAM}[{table}]\n"}
        for line, key, found, expected in cases:
            bare = (table == "stream.main" and '_id = "' in line) or "app_id = " in line
            text = f"[{table}]\n{line}" if bare else prefix.get(table, f"[{table}]\n") + line
            yield text, f"{table}.{key}", found, expected


@pytest.mark.parametrize(("text", "key", "found", "expected"), [*TOP, *table_cases()])
def test_a_key_that_cannot_be_used_is_one_line_with_what_would_do(text, key, found, expected):
    assert lines(text) == [f"F: {key}: found {found}, expected {expected}"]


@pytest.mark.parametrize(("line", "key", "found", "expected"), MQTT_KEYS)
def test_a_key_of_mqtt_that_cannot_be_used_is_one_line(line, key, found, expected):
    rest = "" if key == "host" else 'host = "b"\n'
    assert lines(f"[mqtt]\n{rest}{line}\n{TOPIC}") == [
        f"F: mqtt.{key}: found {found}, expected {expected}"
    ]


@pytest.mark.parametrize(("topic", "found", "expected"), TOPICS)
def test_a_topic_filter_against_the_rules_of_mqtt_is_refused(topic, found, expected):
    assert lines(f'{MQTT}{TOPIC}[[mqtt.subscriptions]]\ntopic = "{topic}"') == [
        f"F: mqtt.subscriptions[1].topic: found {found}, expected {expected}"
    ]


@pytest.mark.parametrize(("endpoint", "found", "hint"), ENDPOINTS)
def test_an_endpoint_that_could_leak_or_miss_is_refused(endpoint, found, hint):
    assert lines(f'{STREAM}endpoint = "{endpoint}"') == [
        f"F: stream.main.endpoint: found {found}, expected {ENDPOINT}{hint}"
    ]


def test_a_version_without_quotation_marks_is_told_about_them():
    assert lines(f"{MQTT}protocol = 5\n{TOPIC}") == [
        'F: mqtt.protocol: found 5, expected "5" or "3.1.1"; put it into quotation marks'
    ]


def test_a_path_of_a_unix_socket_must_fit_into_its_address():
    assert parse(f'[http]\nlisten = "unix:/{"x" * 106}"', name="F").http.unix_path
    assert problems(f'[http]\nlisten = "unix:/{"x" * 107}"')[0].expected == LISTEN


# Missing keys, and rules between keys


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "[mqtt]",
            [
                f"F: mqtt.host: found nothing, expected {HOST}",
                (
                    "F: mqtt.subscriptions: found nothing, "
                    "expected at least one [[mqtt.subscriptions]] table"
                ),
            ],
        ),
        (
            f"{MQTT}subscriptions = []",
            [
                (
                    "F: mqtt.subscriptions: found an empty array, "
                    "expected at least one [[mqtt.subscriptions]] table"
                )
            ],
        ),
        (
            f'{MQTT}[mqtt.subscriptions]\ntopic = "a"',
            [
                (
                    "F: mqtt.subscriptions: found a table, "
                    "expected at least one [[mqtt.subscriptions]] table"
                )
            ],
        ),
        (
            f"{MQTT}[[mqtt.subscriptions]]\nretained = true",
            [
                (
                    "F: mqtt.subscriptions[0].topic: found nothing, "
                    "expected an MQTT topic or a filter such as kiosk/+/events"
                )
            ],
        ),
        (
            "[stream.main]",
            [
                (
                    "F: stream.main: found neither measurement_id nor firebase_app_id, "
                    "expected exactly one of them"
                )
            ],
        ),
        (
            f'{STREAM}firebase_app_id = "1:2:a:b"',
            [
                (
                    "F: stream.main: found both measurement_id and firebase_app_id, "
                    "expected exactly one of them"
                )
            ],
        ),
        (
            '[http]\nlisten = "0.0.0.0:8787"',
            [
                (
                    "F: http.token_file: found nothing, expected a token file, because other "
                    "machines can reach 0.0.0.0:8787; set it, or listen on 127.0.0.1"
                )
            ],
        ),
        (
            f'{MQTT}ca_file = "/ca.pem"\n{TOPIC}',
            ["F: mqtt.ca_file: found a file without tls, expected tls = true beside it"],
        ),
        (
            f'{MQTT}tls = true\ncertificate_file = "/c.pem"\n{TOPIC}',
            ["F: mqtt.key_file: found nothing, expected the file that goes with certificate_file"],
        ),
        (
            f'{MQTT}tls = true\nkey_file = "/k.pem"\n{TOPIC}',
            ["F: mqtt.certificate_file: found nothing, expected the file that goes with key_file"],
        ),
        (
            f'{MQTT}protocol = "3.1.1"\nsession_expiry = "1 day"\n{TOPIC}',
            [
                (
                    'F: mqtt.session_expiry: found a duration although protocol = "3.1.1", '
                    'expected protocol = "5", the only one that knows it; remove one of the two'
                )
            ],
        ),
        (
            f'{MQTT}protocol = "3.1.1"\npassword_file = "/p"\n{TOPIC}',
            [
                (
                    "F: mqtt.username: found nothing, expected a username, "
                    "because MQTT 3.1.1 takes no password without one"
                )
            ],
        ),
        (
            f"{MQTT}{TOPIC}{TOPIC}",
            [
                (
                    "F: mqtt.subscriptions[1].topic: found the topic of mqtt.subscriptions[0] again, "
                    "expected each topic once"
                )
            ],
        ),
        (
            f'{MQTT}{TOPIC}stream = "mian"\n{STREAM}',
            [
                (
                    "F: mqtt.subscriptions[0].stream: found 'mian', "
                    "expected one of the streams main; did you mean main?"
                )
            ],
        ),
        *(
            (
                f'state_directory = "/s/agent"\n[spool]\ndirectory = "{directory}"',
                [
                    (
                        f"F: spool.directory: found {found}, expected a folder of its own; "
                        "without this line it is the folder spool in the state directory"
                    )
                ],
            )
            for directory, found in {
                "/s/agent": "the state directory",
                "/s/agent/spool/../": "the state directory",
                "/s": "a folder around the state directory",
                "/": "a folder around the state directory",
            }.items()
        ),
        (
            '[session]\ntimeout = "2 h"\nlongest = "1 h"',
            [
                (
                    "F: session.timeout: found timeout = 2 h beside longest = 1 h, "
                    "expected a timeout that is no longer than the longest session"
                )
            ],
        ),
        (
            '[session]\nlongest = "10 min"',
            [
                (
                    "F: session.longest: found timeout = 30 min beside longest = 10 min, "
                    "expected a timeout that is no longer than the longest session"
                )
            ],
        ),
        (
            '[stream.app]\nfirebase_app_id = "1:2:a:b"\n[device]\nvisitor = "sitting"',
            [
                (
                    'F: device.visitor: found "sitting" although every stream is an app stream, '
                    'expected "device": an app stream knows people by app_instance_id only'
                )
            ],
        ),
        (
            '[device]\nvisitor = "sitting"\n[session]\nenabled = false',
            [
                (
                    'F: device.visitor: found "sitting" although [session] enabled = false, '
                    "expected sessions, because a sitting is one"
                )
            ],
        ),
        (
            '[device]\nvisitor = "sitting"\nclient_id = "1.2"',
            [
                (
                    'F: device.client_id: found a fixed id although visitor = "sitting", '
                    'expected "auto": each sitting gets an id of its own'
                )
            ],
        ),
        (
            '[spool]\ndirectory = "/var/lib"',
            [
                (
                    "F: spool.directory: found a folder around the state directory, "
                    "expected a folder of its own; "
                    "without this line it is the folder spool in the state directory"
                )
            ],
        ),
        (
            f'{MQTT}{TOPIC}stream = "main"',
            [
                (
                    "F: mqtt.subscriptions[0].stream: found 'main', "
                    "expected the name of a stream that has a [stream.NAME] table"
                )
            ],
        ),
    ],
)
def test_a_missing_key_or_a_broken_rule_between_keys_is_told(text, expected):
    assert lines(text) == expected


@pytest.mark.parametrize(
    "more",
    ['listen = "[2001:db8::1]:80"\ntoken_file = "/t"', 'listen = "0.0.0.0:1"\nenabled = false'],
)
def test_an_address_that_others_can_reach_is_taken_with_a_token_or_when_unused(more):
    assert parse(f"[http]\n{more}", name="F").http.address


def test_sittings_are_taken_where_one_stream_of_several_is_a_web_stream():
    app = '[stream.app]\nfirebase_app_id = "1:2:a:b"\n'
    text = f'{app}{STREAM}[device]\nvisitor = "sitting"\nclient_id = "auto"'
    assert parse(text, name="F").device.visitor == "sitting"


# What GA4 would drop or cut of what every event carries

LONG = "x" * 101


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (
            'params.ga_site = "x"',
            (
                "params.ga_site: found a name with the prefix ga_, which GA4 keeps for itself, "
                "expected another"
            ),
        ),
        (
            "params.firebase_conversion = 1",
            "params.firebase_conversion: found a name that GA4 keeps for itself, expected another",
        ),
        (
            'params.store-no = "x"',
            (
                "params.store-no: found a name with other characters, "
                "expected letters, digits and _ only"
            ),
        ),
        (
            f"params.{'p' * 41} = 1",
            f"params.{'p' * 41}: found a name of 41 characters, expected at most 40",
        ),
        (
            f'params.site = "{LONG}"',
            "params.site: found a text of 101 characters, expected at most 100",
        ),
        (
            'params.currency = "euro"',
            (
                "params.currency: found a text that is no currency, "
                "expected a code of ISO 4217 in capitals, like EUR"
            ),
        ),
        ('params.items = "x"', "params.items: found a text, expected an array of items"),
        (
            f"params = {{ {', '.join(f'p{n} = {n}' for n in range(26))} }}",
            "params: found 26 params, expected at most 25",
        ),
        (
            "params.session_id = 5",
            (
                "params.session_id: found a param of the agent's own, "
                "expected it nowhere: the agent puts it on events ([session])"
            ),
        ),
        (
            "params.engagement_time_msec = 1",
            (
                "params.engagement_time_msec: found a param of the agent's own, "
                "expected it nowhere: the agent puts it on events ([session])"
            ),
        ),
        (
            'params.event_id = "a"',
            (
                "params.event_id: found a param of the agent's own, "
                "expected it nowhere: each event gets its own"
            ),
        ),
        (
            "params.timestamp_micros = 1",
            (
                "params.timestamp_micros: found a param of the agent's own, "
                "expected it nowhere: each event has its own time"
            ),
        ),
        (
            "params.debug_mode = true",
            (
                "params.debug_mode: found a param of the agent's own, "
                "expected debug = true under [stream.NAME], else it is taken out again"
            ),
        ),
        (
            "user_properties.user_id = 1",
            "user_properties.user_id: found a name that GA4 keeps for itself, expected another",
        ),
        (
            f"user_properties.{'u' * 25} = 1",
            f"user_properties.{'u' * 25}: found a name of 25 characters, expected at most 24",
        ),
        (
            f'user_properties.tier = "{"x" * 37}"',
            "user_properties.tier: found a text of 37 characters, expected at most 36",
        ),
        (
            f"user_properties = {{ {', '.join(f'u{n} = {n}' for n in range(26))} }}",
            "user_properties: found 26 user properties, expected at most 25",
        ),
    ],
)
def test_what_ga4_would_drop_or_cut_of_every_event_is_an_error(line, told):
    assert lines(f"[device]\n{line}") == [f"F: device.{told}"]


def test_mistakes_of_the_device_are_told_beside_values_of_the_wrong_kind_and_once_each():
    told = problems(f"[device]\nparams = {{ ga_a = [1], b = '{LONG}', c = nan, _d = 1 }}")
    assert [problem.key for problem in told] == [
        f"device.params.{name}" for name in ("ga_a", "c", "b", "_d")
    ]


def test_a_text_for_ga360_may_be_longer_and_page_locations_anyway():
    rules = "[stream.main.rules]\nga360 = true\n"
    params = f'[device]\nparams = {{ site = "{LONG}", page_location = "https://{LONG}" }}'
    assert parse(f"{STREAM}{rules}{params}", name="F").device.params["site"] == LONG
    assert [each.key for each in problems(f"{STREAM}{params}")] == ["device.params.site"]


def test_without_rules_on_any_stream_the_device_has_none_either():
    text = f'{STREAM}mode = "off"\n[device]\nparams.ga_site = "x"'
    assert parse(text, name="F").device.params == {"ga_site": "x"}
    other = '[stream.other]\nmeasurement_id = "G-2"\n'
    assert [each.key for each in problems(f"{text}\n{other}")] == ["device.params.ga_site"]


def test_a_huge_text_of_the_device_is_told_like_a_long_one():
    told = lines(f'[device]\nparams.a = "{"x" * 200_000}"')
    assert told == ["F: device.params.a: found a text of 200000 characters, expected at most 100"]


# The mapping of a subscription

WHERE = "mqtt.subscriptions[0]"
NAMED = '[[mqtt.subscriptions]]\ntopic = "kiosk/+site/#rest"\n'
KNOWN_NAMES = "one of site, rest, json.…, value, topic"


def mapped(keys, *, topic=NAMED):
    return f"{STREAM}{MQTT}{topic}{keys}"


def test_a_mapping_loads_as_it_was_written():
    text = mapped(
        """
        event = "{rest}"
        params = { site = "{site}", price = "{json.price}", n = 2, open = true }
        client_id = "{json.visitor?}"
        user_properties = { tier = "gold" }
        event_id = "{json.sale}"
        stream = "{json.stream}"
        priority = "{json.priority?}"
        actor = "human"
        session = "start"
        """
    )
    [subscription] = parse(text, name="F").mqtt.subscriptions
    assert subscription == SubscriptionSettings(
        topic="kiosk/+site/#rest",
        event="{rest}",
        params={"site": "{site}", "price": "{json.price}", "n": 2, "open": True},
        client_id="{json.visitor?}",
        user_properties={"tier": "gold"},
        event_id="{json.sale}",
        stream="{json.stream}",
        priority="{json.priority?}",
        actor="human",
        session="start",
    )


def test_items_of_a_mapping_are_a_template_a_table_or_an_array_of_tables():
    for toml_items, items in (
        ('"{json.items}"', "{json.items}"),
        (
            '{ from = "json.products", item_id = "{item.no}", quantity = 1 }',
            {"from": "json.products", "item_id": "{item.no}", "quantity": 1},
        ),
        (
            '[{ item_id = "{json.no}", price = 2.5 }, { item_name = "bag" }]',
            ({"item_id": "{json.no}", "price": 2.5}, {"item_name": "bag"}),
        ),
    ):
        text = mapped(f'event = "e"\nparams = {{ items = {toml_items}, b = true }}')
        [subscription] = parse(text, name="F").mqtt.subscriptions
        assert subscription.params == {"items": items, "b": True}


def test_the_time_of_a_message_and_whose_clock_it_is_of_are_said_by_the_mapping():
    [plain] = parse(mapped(""), name="F").mqtt.subscriptions
    assert (plain.time, plain.clock, plain.client_key) == (None, "publisher", None)
    text = mapped('event = "e"\ntime = "{json.t}"\nclock = "device"\nclient_key = "{json.card}"')
    [said] = parse(text, name="F").mqtt.subscriptions
    assert (said.time, said.clock, said.client_key) == ("{json.t}", "device", "{json.card}")


@pytest.mark.parametrize(
    ("keys", "at", "told"),
    [
        ('event = "e"\nparams.a = {}', "params.a", f"a table, expected {SCALAR}"),
        (
            'event = "e"\nparams.items = []',
            "params.items",
            "an empty array, expected a template, a table with from, or an array of tables",
        ),
        ('event = "e"\nparams.items = [1]', "params.items[0]", "a number, expected a table"),
        (
            'event = "e"\nparams.items = [{}]',
            "params.items[0]",
            "an empty table, expected an item's params",
        ),
        (
            'event = "e"\nparams.items = [{ item_id = [1] }]',
            "params.items[0].item_id",
            f"an array, expected {SCALAR}",
        ),
        (
            'event = "e"\nparams.items = { from = "json.a", price = nan }',
            "params.items.price",
            f"nan, expected {SCALAR}",
        ),
        ("time = 5", "time", '5, expected a template such as "{json.time}"'),
        ('clock = "theirs"', "clock", "'theirs', expected \"device\" or \"publisher\""),
        (
            'client_key = ""',
            "client_key",
            f"{NOT_SHOWN}, expected one line of 1 to 256 characters for the client key",
        ),
        ('event = "{sote}"', "event", f"{{sote}}, expected {KNOWN_NAMES}; did you mean site?"),
        (
            'event = "e"\nparams.price = "{jsn.price}"',
            "params.price",
            f"{{jsn.price}}, expected {KNOWN_NAMES}",
        ),
        (
            'event = "e"\nuser_properties.u = "{json}"',
            "user_properties.u",
            "{json}, expected a field such as {json.price} or {json.items.0.price}",
        ),
        (
            'event = "e"\nclient_id = "{site"',
            "client_id",
            "{ without }, expected a placeholder such as {json.NAME}, or {{ for a brace",
        ),
        (
            'event = "e"\nuser_id = "{site?}"',
            "user_id",
            "{site?}, expected {site}: only a field can be missing",
        ),
        ('event = ""', "event", "'', expected the name of an event, or a template"),
        ("event = 1", "event", "1, expected the name of an event, or a template"),
        (
            'event = "{json.name?}"',
            "event",
            "{json.name?}, expected {json.name}, because an event cannot do without a name",
        ),
        ("params = 1", "params", "a number, expected a table of names and values"),
        ("params.a = [1]", "params.a", f"an array, expected {SCALAR}"),
        (
            'client_id = ""',
            "client_id",
            f"{NOT_SHOWN}, expected one line of 1 to 256 characters for the client id",
        ),
        ("user_id = 5", "user_id", "a number, expected one line of 1 to 256 characters for the user id"),
        ('app_instance_id = "ff"', "app_instance_id", f"{NOT_SHOWN}, expected 32 hexadecimal digits"),
        ('priority = "urgent"', "priority", ''''urgent', expected "high" or "normal" or "low"'''),
        ("priority = 1", "priority", '1, expected "high" or "normal" or "low"'),
        ('priority = "{{high}}"', "priority", ''''{high}', expected "high" or "normal" or "low"'''),
        ('actor = "robot"', "actor", ''''robot', expected "human" or "machine"'''),
        ('session = "on"', "session", ''''on', expected "start" or "end"'''),
        ('stream = "{{a}}"', "stream", "'{{a}}', expected one of the streams main"),
        (
            'event = "{json.name}"\nparams.v = "{value}"',
            "params.v",
            ("{value} and {json.…} in one mapping, "
            "expected one of the two: a payload is a bare value or JSON"),
        ),
        (
            'params.v = "is {value}"',
            "params.v",
            ("{value} without event, expected event beside it, "
            "because without it the payload is JSON events"),
        ),
        (
            'event_id = "{json.id}"',
            "event_id",
            ("an event_id without event, expected event beside it, "
            "because JSON events bring their own ids"),
        ),
        (
            'event = "e"\nevent_id = "{site}"',
            "event_id",
            ("the same event_id for different messages, "
            "expected something of the payload in it, such as {json.id}"),
        ),
        (
            'evnt = "e"',
            "evnt",
            "an unknown key, expected a key of [[mqtt.subscriptions]]; did you mean event?",
        ),
    ],
)  # fmt: skip
def test_a_mapping_that_no_message_could_go_through_is_refused(keys, at, told):
    assert lines(mapped(keys)) == [f"F: {WHERE}.{at}: found {told}"]


def test_every_mistake_of_a_mapping_is_told_at_once():
    text = mapped('event = "{a}"\nparams = { b = "{b}", c = "{" }\nactor = "x"\nstream = "y"')
    assert [problem.key for problem in problems(text)] == [
        f"{WHERE}.{key}" for key in ("event", "params.b", "params.c", "actor", "stream")
    ]


def test_of_a_topic_that_is_none_only_the_topic_is_told():
    text = mapped('event = "{site}"', topic='[[mqtt.subscriptions]]\ntopic = "+json/+site"\n')
    assert [problem.key for problem in problems(text)] == [f"{WHERE}.topic"]


def test_two_names_do_not_make_two_filters_of_one():
    text = f'{MQTT}[[mqtt.subscriptions]]\ntopic = "a/+x"\n[[mqtt.subscriptions]]\ntopic = "a/+"'
    assert lines(text) == [
        (
            "F: mqtt.subscriptions[1].topic: found the topic of mqtt.subscriptions[0] again, "
            "expected each topic once"
        )
    ]


def test_a_stream_from_the_message_needs_streams_to_choose_from():
    assert [problem.key for problem in problems(f'{MQTT}{NAMED}stream = "{{site}}"')] == [
        f"{WHERE}.stream"
    ]


def test_ids_and_params_of_a_mapping_are_in_no_repr_and_no_message():
    keys = ["client_id", "client_key", "user_id", "event_id", "app_instance_id"]
    text = "\n".join(f'{key} = "marker\\n"' for key in keys)
    assert "marker" not in "".join(lines(mapped(text)))
    sound = 'client_id = "marker"\nuser_id = "marker"\nparams.a = "marker"\nuser_properties.a = "marker"'
    assert "marker" not in repr(parse(mapped(sound), name="F"))


# Unknown keys


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[http]\nlisen = 1", "http.lisen: … a key of [http]; did you mean listen?"),
        ("[http]\nhost = 1", "http.host: … a key of [http]; did you mean hosts?"),
        (
            "[http]\nmax_bytes = 1",
            "http.max_bytes: … a key of [http]; this key belongs under [queue]",
        ),
        (
            "[delivery]\nca_file = 1",
            "delivery.ca_file: … a key of [delivery]; this key belongs under [mqtt] or [network]",
        ),
        (
            "[queue]\nvolatile = 1",
            (
                "queue.volatile: … a key of [queue]; "
                "this key belongs at the top of the file, before the first table"
            ),
        ),
        ("listen = 1", "listen: … a key of the configuration; this key belongs under [http]"),
        (
            "measurement_id = 1",
            "measurement_id: … a key of the configuration; this key belongs under [stream.NAME]",
        ),
        ("[streams.a]", "streams: … a key of the configuration; did you mean stream?"),
        (
            f'{STREAM}api_secret = "x"',
            "stream.main.api_secret: … a key of [stream.NAME]; did you mean api_secret_file?",
        ),
        (
            f'{MQTT}password = "x"\n{TOPIC}',
            "mqtt.password: … a key of [mqtt]; did you mean password_file?",
        ),
        (
            f"{MQTT}{TOPIC}retain = true",
            (
                "mqtt.subscriptions[0].retain: … a key of [[mqtt.subscriptions]]; "
                "did you mean retained?"
            ),
        ),
        ("[log]\nlisten_ = 1", "log.listen_: … a key of [log]; did you mean listen under [http]?"),
        ("[log]\nzzz = 1", "log.zzz: … a key of [log]; the keys here are level"),
        ('[log]\n"a\\u001b[2J" = 1', r"log.'a\x1b[2J': … a key of [log]; the keys here are level"),
    ],
)
def test_an_unknown_key_is_refused_with_a_suggestion(text, line):
    assert lines(text) == [f"F: {line.replace('…', 'found an unknown key, expected')}"]


# Files as a whole


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "a = 1\nb = here",
            (
                "line 2 column 5: found a value that is not TOML, expected valid TOML; "
                "put a text into quotation marks"
            ),
        ),
        (
            "a = 1 2",
            "line 1 column 7: found something else, expected newline or end of document after a statement",
        ),
        (
            "a = 1\n[b]\n[b]",
            "line 3 column 3: found a table for the second time, expected valid TOML; join the two",
        ),
        ('a = "x', "end of the file: found unterminated string, expected valid TOML"),
    ],
)
def test_a_mistake_in_the_toml_is_told_by_line_and_column(text, line):
    assert lines(text) == [f"F: {line}"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("#" * (2**20 + 1), "more than 1 MiB"),
        ("a = " + "[" * 200_000, "values nested too deep"),
        ("a = " + "9" * 5000, "a number of too many digits"),
        ("a = '\ud800'", "text that is not Unicode"),
    ],
)
def test_a_text_that_cannot_be_read_at_all_is_one_problem(text, found):
    assert lines(text) == [f"F: found {found}, expected a TOML text of 1 MiB at most"]


def test_the_largest_file_has_1_mib(tmp_path):
    path = tmp_path / "agent.toml"
    path.write_bytes(b"\xef\xbb\xbf" + b"#" * 2**20)
    assert load(path) == Config()
    path.write_bytes(b"#" * (2**20 + 1))
    with pytest.raises(ConfigError, match="found more than 1 MiB"):
        load(path)


def test_a_file_with_a_byte_order_mark_and_windows_line_ends_loads(tmp_path):
    path = tmp_path / "agent.toml"
    path.write_bytes(b"\xef\xbb\xbf[queue]\r\nmax_bytes = '8 MiB'\r\n")
    assert load(path).queue.max_bytes == 8 * 2**20


def test_a_file_that_cannot_be_read_is_one_problem_with_what_to_do(tmp_path):
    bad = tmp_path / "bad.toml"
    bad.write_bytes(b"a = '\xff'")
    through = bad / "agent.toml"
    expected = "expected a readable configuration file"
    for path, found, hint in (
        (tmp_path / "none.toml", "no such file", "write one, or name another with --config"),
        (tmp_path, "a folder", "name a file in it with --config"),
        (bad, "text that is not UTF-8", "save it anew as UTF-8"),
        (through, "the error 'Not a directory'", "check the path and the disk"),
    ):
        with pytest.raises(ConfigError) as refused:
            load(path)
        assert str(refused.value) == f"{path}: found {found}, {expected}; {hint}"
        assert refused.value.__context__ is None


# All at once, and never anything worse


def test_six_mistakes_are_six_problems_in_one_answer():
    told = lines(
        """
        volatile = "no"
        [stream.main]
        measurement_id = "UA-1"
        [http]
        lisen = "127.0.0.1:1"
        [mqtt]
        host = "b"
        key_file = "/k.pem"
        tls = true
        [[mqtt.subscriptions]]
        topic = "a/#/b"
        [delivery]
        timeout = 20
        """
    )
    assert told == [
        "F: volatile: found 'no', expected true or false",
        f"F: stream.main.measurement_id: found 'UA-1', expected {MEASUREMENT}",
        "F: http.lisen: found an unknown key, expected a key of [http]; did you mean listen?",
        f"F: mqtt.subscriptions[0].topic: found 'a/#/b', expected {LEVEL_HASH}",
        "F: mqtt.certificate_file: found nothing, expected the file that goes with key_file",
        'F: delivery.timeout: found 20, expected a duration with a unit such as "20 s"',
    ]


def test_a_rule_between_keys_is_checked_although_another_key_is_wrong():
    told = [problem.key for problem in problems('[http]\nlisten = "0.0.0.0:1"\nthreads = 0')]
    assert told == ["http.threads", "http.token_file"]


def test_the_text_of_an_error_has_one_line_for_each_problem():
    with pytest.raises(ConfigError) as refused:
        parse("a = 1\nb = 2", name="F")
    assert str(refused.value).splitlines() == [str(each) for each in refused.value.problems]


def test_a_problem_reads_as_file_key_found_expected_and_hint():
    problem = Problem(file="F", key="a.b", found="1", expected="2", hint="do")
    assert str(problem) == "F: a.b: found 1, expected 2; do"
    assert str(dataclasses.replace(problem, key="", hint="")) == "F: found 1, expected 2"


def test_secrets_in_the_wrong_place_are_in_no_message_and_no_traceback():
    secret = "hunter2secret"
    text = f"""
        [stream.main]
        measurement_id = "G-1"
        api_secret = "{secret}"
        api_secret_file = "{secret}"
        endpoint = "https://x/?api_secret={secret}"
        [device]
        client_id = "{secret}\\n"
        user_id = ["{secret}"]
        params = {{ a = ["{secret}"] }}
        [http]
        token_file = "{secret}"
        [network]
        proxy = "user:{secret}@proxy"
        [mqtt]
        host = "mqtt://user:{secret}@broker"
        password = "{secret}"
        password_file = "{secret}"
        key_file = "{secret}"
        username = "{secret}\\n"
        """
    for broken in (text, f"{text}\nproxy = http://u:{secret}@h", f'{text}\na = "{secret}\\q"'):
        with pytest.raises(ConfigError) as refused:
            parse(broken, name="F")
        assert secret not in "".join(traceback.format_exception(refused.value))


def toml(value):
    """Write a value as TOML, in the one-line form."""
    match value:
        case bool():
            return str(value).lower()
        case int() | float():
            return str(value)
        case str():
            return '"' + "".join(f"\\U{ord(character):08X}" for character in value) + '"'
        case list():
            return f"[{', '.join(map(toml, value))}]"
        case dict():
            return (
                "{" + ", ".join(f"{toml(key)} = {toml(item)}" for key, item in value.items()) + "}"
            )


SETTINGS = {
    "": Config,
    "stream.main": StreamSettings,
    "stream.main.rules": RulesSettings,
    "device": DeviceSettings,
    "device.consent": ConsentSettings,
    "device.hardware": HardwareSettings,
    "device.location": LocationSettings,
    "session": SessionSettings,
    "http": HttpSettings,
    "mqtt": MqttSettings,
    "mqtt.subscriptions": SubscriptionSettings,
    "spool": SpoolSettings,
    "queue": QueueSettings,
    "delivery": DeliverySettings,
    "network": NetworkSettings,
    "log": LogSettings,
}
KNOWN = sorted({key.name for table in SETTINGS.values() for key in dataclasses.fields(table)})
SOUND = [
    "/a", "G-1", "1:2:a:b", "2 s", "10 s", "1 MiB", "64 MiB", "5", "3.1.1", "info", "high", "main",
    "127.0.0.1:1", "0.0.0.0:1", "[::1]:1", "unix:/a", "https://a", "http://[::1]", "a/+/#", "auto",
]  # fmt: skip
TEXTS = st.sampled_from(SOUND) | st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
SCALARS = TEXTS | st.booleans() | st.integers() | st.floats() | st.just(10**30)
NAMES = st.sampled_from([*KNOWN, "main", "lisen"]) | TEXTS
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)


def tables(*names):
    """Tables of the right name, with mostly known keys."""
    return {name: keys_of(SETTINGS[name]) | VALUES for name in names}


def keys_of(table):
    known = st.sampled_from([key.name for key in dataclasses.fields(table)])
    return st.dictionaries(known | NAMES, SCALARS | VALUES, max_size=5)


DOCUMENTS = st.dictionaries(NAMES, VALUES, max_size=4) | st.fixed_dictionaries(
    {},
    optional={
        "volatile": SCALARS,
        "stream": st.dictionaries(NAMES, keys_of(StreamSettings), max_size=3) | VALUES,
        "mqtt": st.fixed_dictionaries(
            {"host": st.just("a") | SCALARS},
            optional={
                "subscriptions": st.lists(keys_of(SubscriptionSettings), max_size=3) | VALUES,
                "tls": SCALARS,
                "port": SCALARS,
                "protocol": SCALARS,
            },
        ),
        **tables("device", "session", "http", "spool", "queue", "delivery", "network", "log"),
    },
)


@given(document=DOCUMENTS)
def test_any_tables_load_or_are_refused_with_problems_that_name_file_and_key(document):
    text = "".join(f"{toml(key)} = {toml(value)}\n" for key, value in document.items())
    try:
        assert isinstance(parse(text, name="F"), Config)
    except ConfigError as error:
        told = error.problems
    else:
        return
    assert told
    for problem in told:
        assert problem.file == "F"
        assert problem.key
        assert problem.found
        assert problem.expected
        assert str(problem).isprintable()


@given(text=st.text() | st.text(alphabet="[]{}=.\"'\\#\n\r ,a1-:+_\ufeff", max_size=30))
def test_any_text_loads_or_is_refused(text):
    try:
        assert isinstance(parse(text, name="F"), Config)
    except ConfigError as error:
        told = error.problems
    else:
        return
    assert all(str(problem).isprintable() for problem in told)


# The configurations that come with the agent

REFERENCE = (FOLDER / "agent.toml").read_text()
# "#key = …" and "#[table]" are settings; "# text" is an explanation.
SETTING = re.compile(r"^#?([a-z0-9_]+) = .+$|^#?\[{1,2}([a-z.]+)\]{1,2}$")


def settings_of_reference():
    """Every setting of the reference, commented or not: (table, key, line)."""
    return [setting[:3] for setting in explained_settings()]


def explained_settings():
    """Every setting of the reference with the explanation that stands above it."""
    table, above = "", []
    for line in REFERENCE.splitlines():
        match = SETTING.match(line)
        if match and match[1]:
            yield table, match[1], line.removeprefix("#"), " ".join(above)
        table = match[2] if match and match[2] else table
        above = [*above, line.removeprefix("# ")] if line.startswith("# ") else []


def reference(chosen):
    """The reference with the chosen settings taken out of their comments."""
    text, table = [], None
    for place, key, line in settings_of_reference():
        if chosen(place, key):
            if place != table:
                text.append(
                    {"": "", "mqtt.subscriptions": "[[mqtt.subscriptions]]"}.get(
                        place, f"[{place}]"
                    )
                )
            table = place
            text.append(line)
    return "\n".join(text)


def has_default(place, key):
    field = next(each for each in dataclasses.fields(SETTINGS[place]) if each.name == key)
    return field.default not in {None, dataclasses.MISSING} or (
        field.default_factory is not dataclasses.MISSING
    )


NEEDED = {("stream.main", "measurement_id"), ("mqtt", "host"), ("mqtt.subscriptions", "topic")}


def test_the_reference_holds_every_key_of_every_table_once():
    told = sorted((place, key) for place, key, _ in settings_of_reference())
    inner = [tuple(place.rsplit(".", 1)) for place in SETTINGS if "." in place]
    tables = {("", place.partition(".")[0]) for place in SETTINGS} | set(inner)
    keys = [
        (place, key.name) for place, table in SETTINGS.items() for key in dataclasses.fields(table)
    ]
    assert told == sorted(key for key in keys if key not in tables)


def test_the_defaults_that_the_reference_states_are_the_real_ones():
    config = parse(
        reference(lambda place, key: (place, key) in NEEDED or has_default(place, key)), name="F"
    )
    stream, mqtt = config.stream["main"], config.mqtt
    assert stream == StreamSettings(measurement_id=stream.measurement_id)
    assert mqtt.subscriptions == (SubscriptionSettings(topic=mqtt.subscriptions[0].topic),)
    assert mqtt == MqttSettings(host=mqtt.host, subscriptions=mqtt.subscriptions)
    assert dataclasses.replace(config, stream={}, mqtt=None) == Config()


def test_the_examples_in_the_reference_load_all_together():
    """Everything out of its comment, but for the one of two ids and the tls that files need."""
    text = reference(lambda _, key: key != "firebase_app_id").replace("tls = false", "tls = true")
    config = parse(text, name="F")
    assert config.mqtt.key_file
    assert config.network.proxy
    app = reference(lambda place, key: place == "stream.main" and key != "measurement_id")
    assert parse(app, name="F").stream["main"].firebase_app_id


def test_every_setting_of_the_reference_is_explained_and_says_when_it_has_no_default():
    for place, key, _, explanation in explained_settings():
        assert explanation, f"{place}.{key} has no explanation"
        assert ("No default" in explanation) is not has_default(place, key), f"{place}.{key}"


def test_the_reference_as_it_is_changes_nothing():
    assert load(FOLDER / "agent.toml") == Config()


@pytest.mark.parametrize(
    ("disk", "cap"), [(16 * 2**30, 64 * 2**20), (640 * 2**20, 32 * 2**20), (8 * 2**20, 4 * 2**20)]
)
def test_the_cap_is_a_twentieth_of_the_disk_at_most_64_mib(disk, cap):
    assert parse("", name="F").queue.cap_on(disk) == cap
    assert parse('[queue]\nmax_bytes = "auto"', name="F").queue.cap_on(disk) == cap
    assert parse('[queue]\nmax_bytes = "8 MiB"', name="F").queue.cap_on(disk) == 8 * 2**20
