"""``config show``: what is in effect, without ids and passwords, in a text that reads back."""

import json
import math
import tomllib

import pytest
import tomli_w
from hypothesis import given, reject
from hypothesis import strategies as st

from agent.config import Config, ConfigError, parse
from agent.config.writing import document, text
from tests.cli.running import ga4_agent
from tests.test_config import reference

STREAM = '[stream.main]\nmeasurement_id = "G-ABCDE12345"\n'
MQTT = '[mqtt]\nhost = "127.0.0.1"\n'
TOPIC = '[[mqtt.subscriptions]]\ntopic = "kiosk/events"\n'
TEMPLATES = {"mqtt.subscriptions"}  # tables in which ids are made of messages
IDS = {"client_id", "app_instance_id", "user_id", "username"}


def read(toml):
    return parse(toml, name="F")


@pytest.fixture
def show(tmp_path):
    path = tmp_path / "agent.toml"

    def run(toml, *options):
        path.write_text(f'state_directory = "{tmp_path}/state"\n{toml}')
        return ga4_agent("config", "show", "--config", str(path), *options)

    return run


# It reads back


def test_the_defaults_read_back():
    assert read(text(Config())) == Config()


@pytest.mark.parametrize("identity", ["measurement_id", "firebase_app_id"])
def test_the_reference_with_everything_in_it_reads_back(identity):
    """But for ids, of which it is not said which they are."""
    other = {"measurement_id", "firebase_app_id"} - {identity}
    toml = reference(lambda place, key: key not in other and (key not in IDS or place in TEMPLATES))
    config = read(toml.replace("tls = false", "tls = true"))
    assert config.mqtt.key_file
    assert read(text(config)) == config


def test_a_broker_of_the_old_version_reads_back():
    """A key that does nothing with it would be an error in a file."""
    config = read(f'{MQTT}protocol = "3.1.1"\n{TOPIC}')
    assert "session_expiry" not in text(config)
    assert read(text(config)) == config
    assert "session_expiry" in text(read(f"{MQTT}{TOPIC}"))


def test_items_of_a_mapping_read_back():
    for items in ('{ from = "json.a", item_id = "{item.b}" }', '[{ item_id = "{json.b}" }]'):
        config = read(f'{MQTT}{TOPIC}event = "e"\nparams = {{ items = {items}, n = 1.5 }}')
        assert read(text(config)) == config
        assert isinstance(json.loads(json.dumps(document(config))), dict)


def test_templates_of_ids_read_back():
    config = read(f'{MQTT}{TOPIC}client_id = "{{json.visitor?}}"\nuser_id = "{{json.card?}}"')
    assert read(text(config)) == config


def bounded(low, high, units):
    """Quantities of all lengths between the bounds, which are in the smallest unit."""
    digits = st.integers(0, 9)

    def written(unit, decimals, share):
        factor = units[unit]
        number = (low + (high - low) * share) / factor
        return f"{math.floor(number * 10**decimals) / 10**decimals:.{decimals}f} {unit}"

    return st.builds(written, st.sampled_from(sorted(units)), digits, st.floats(0, 1))


DURATIONS = {"ms": 1, "s": 1000, "min": 60_000, "h": 3_600_000, "days": 86_400_000}
SIZES = {"B": 1, "kB": 1000, "KiB": 1024, "MB": 10**6, "MiB": 2**20, "GB": 10**9, "GiB": 2**30}
HOUR = 3_600_000
SCALARS = (
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.booleans()
)
# Names and values that GA4 takes: others are an error.
NAMED = st.dictionaries(st.from_regex("p[A-Za-z0-9_]{0,20}", fullmatch=True), SCALARS, max_size=25)
NAMES = st.from_regex("[A-Za-z0-9_-]{1,32}", fullmatch=True)
PATHS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")).map("/{}".format)


def tables(**keys):
    return st.fixed_dictionaries({}, optional=keys)


CONFIGS = tables(
    state_directory=PATHS,
    volatile=st.booleans(),
    stream=st.dictionaries(
        NAMES,
        st.fixed_dictionaries(
            {"measurement_id": st.just("G-1")},
            optional={
                "api_secret_file": PATHS,
                "accept_body": st.booleans(),
                "mode": st.sampled_from(["repair", "strict", "off"]),
                "rules": tables(
                    ga360=st.booleans(),
                    reserved_events=st.lists(st.sampled_from(["click", "scroll"])),
                    future=bounded(0, 24 * HOUR, DURATIONS),
                ),
            },
        ),
        max_size=3,
    ),
    device=tables(
        user_properties=NAMED,
        params=NAMED,
        visitor=st.sampled_from(["device", "sitting"]),
        id_salt_file=PATHS,
        consent=tables(ad_user_data=st.sampled_from(["GRANTED", "DENIED"])),
        hardware=tables(category=st.just("desktop"), model=st.just("Pi")),
        location=tables(country_id=st.just("DE")),
    ),
    session=tables(timeout=bounded(1000, HOUR, DURATIONS)),
    http=tables(
        enabled=st.booleans(),
        max_body=bounded(2**17, 2**24, SIZES),
        read_deadline=bounded(1000, 120_000, DURATIONS),
        threads=st.integers(2, 64),
        origins=st.lists(st.sampled_from(["null", "https://a", "http://b:1"])),
    ),
    spool=tables(enabled=st.booleans(), directory=PATHS),
    queue=tables(max_bytes=bounded(2**22, 2**38, SIZES)),
    delivery=tables(
        max_delay=bounded(0, HOUR, DURATIONS), timeout=bounded(1000, 120_000, DURATIONS)
    ),
    network=tables(proxy=st.just("http://proxy:3128"), ca_file=PATHS),
    mqtt=st.fixed_dictionaries(
        {
            "host": st.just("b"),
            "subscriptions": st.just([{"topic": "a/+x", "event": "{x}", "retained": True}]),
        },
        optional={
            "protocol": st.sampled_from(["5", "3.1.1"]),
            "keepalive": bounded(5000, 1_200_000, DURATIONS),
            "reconnect_max": bounded(1000, 600_000, DURATIONS),
        },
    ),
)


@given(CONFIGS)
def test_every_configuration_without_ids_and_passwords_reads_back(tables):
    try:
        config = read(tomli_w.dumps(tables))
    except ConfigError:
        reject()  # rounding can leave a bound by a hair
    assert read(text(config)) == config
    assert read(tomli_w.dumps(json.loads(json.dumps(document(config))))) == config


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("1500 ms", "1.5 s"),
        ("90 s", "90 s"),
        ("1001 ms", "1001 ms"),
        ("1.23456789 s", "1234.56789 ms"),
        ("60.001 s", "60001 ms"),
    ],
)
def test_a_duration_is_shown_as_it_is_and_not_rounded(said, shown):
    config = read(f'[delivery]\nmax_delay = "{said}"')
    assert tomllib.loads(text(config))["delivery"]["max_delay"] in (shown, said)
    assert read(text(config)) == config


@pytest.mark.parametrize("said", ["4194305 B", "4097 KiB", "1000.5 MiB"])
def test_a_size_is_shown_as_it_is_and_not_rounded(said):
    config = read(f'[queue]\nmax_bytes = "{said}"')
    assert read(text(config)).queue.max_bytes == config.queue.max_bytes


# What is left out

SECRETS = (
    f'{STREAM}[device]\nclient_id = "marker1"\napp_instance_id = "{"facade00" * 4}"\n'
    'user_id = "marker2"\n[network]\nproxy = "http://marker3:marker4@proxy:3128"\n'
    f'{MQTT}client_id = "marker5"\nusername = "marker6"\n{TOPIC}client_id = "marker7"\n'
    f'user_id = "marker8"\napp_instance_id = "{"facade00" * 4}"\n'
)


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_ids_and_passwords_are_not_shown_but_that_there_are_some(show, options):
    told = show(SECRETS, *options)
    assert told.exit_code == 0, told.stderr
    assert "marker" not in told.output
    assert "facade" not in told.output
    shown = json.loads(told.stdout) if options else tomllib.loads(told.stdout)
    ids = ("client_id", "app_instance_id", "user_id")
    assert {key: shown["device"][key] for key in ids} == dict.fromkeys(ids, HIDDEN)
    assert shown["network"] == {"proxy": f"http://{HIDDEN}@proxy:3128"}
    assert shown["mqtt"]["client_id"] == shown["mqtt"]["username"] == HIDDEN
    [subscription] = shown["mqtt"]["subscriptions"]
    assert {subscription[key] for key in ("client_id", "user_id", "app_instance_id")} == {HIDDEN}


HIDDEN = "(not shown)"


@pytest.mark.parametrize(
    "toml",
    [
        '[device]\nclient_id = "marker"',
        f'[device]\napp_instance_id = "{"facade00" * 4}"',
        '[device]\nuser_id = "marker"',
        '[network]\nproxy = "http://u:p@proxy:3128"',
        f'{MQTT}client_id = "marker"\n{TOPIC}',
        f'{MQTT}username = "marker"\n{TOPIC}',
        f'{MQTT}{TOPIC}client_id = "marker"',
        f'{MQTT}{TOPIC}user_id = "marker"',
    ],
)
def test_what_was_left_out_does_not_pass_for_an_id_when_somebody_makes_a_file_of_it(toml):
    """Else every device of a fleet would send under the client id "(not shown)"."""
    with pytest.raises(ConfigError, match=r"found another text \(not shown\)"):
        read(text(read(toml)))


def test_an_id_that_the_agent_makes_is_shown_as_auto():
    shown = document(read(f"{MQTT}{TOPIC}"))
    assert shown["device"]["client_id"] == shown["mqtt"]["client_id"] == "auto"


# The command


def test_every_setting_is_shown_with_its_default(show, tmp_path):
    told = show(STREAM)
    assert (told.exit_code, told.stderr) == (0, "")
    shown = tomllib.loads(told.stdout)
    assert shown["state_directory"] == f"{tmp_path}/state"
    assert shown["stream"]["main"]["endpoint"] == "https://www.google-analytics.com"
    assert shown["http"]["listen"] == "127.0.0.1:8787"
    assert shown["queue"] == {"max_bytes": "auto", "on_full": "evict"}
    assert not told.stdout.endswith("\n\n")


def test_programs_get_the_same_as_json(show):
    toml, as_json = show(STREAM), show(STREAM, "--json")
    assert json.loads(as_json.stdout) == tomllib.loads(toml.stdout)


def test_of_a_broken_file_the_last_good_one_is_shown_and_the_problems_told(show, tmp_path):
    state = tmp_path / "state"
    state.mkdir()
    (state / "last-good.toml").write_text(f'state_directory = "{state}"\n[http]\nthreads = 3\n')
    told = show("[http]\nthreads = 1\n")
    assert told.exit_code == 0
    assert tomllib.loads(told.stdout)["http"]["threads"] == 3
    problem, note = told.stderr.splitlines()
    assert (
        problem
        == f"{tmp_path}/agent.toml: http.threads: found 1, expected a whole number from 2 to 64"
    )
    assert "the last configuration that worked" in note


def test_without_any_that_could_be_used_it_ends_with_2_and_the_problems(show):
    told = show("[http]\nthreads = 1\n")
    assert (told.exit_code, told.stdout) == (2, "")
    assert "http.threads: found 1, expected" in told.stderr
