"""`ga4-agent map`: what becomes of a message, told without a broker and without a trace."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from agent.cli.main import main

ROOT = Path(__file__).parents[2]
CONFIG = """
state_directory = "{state}"
[stream.main]
measurement_id = "G-MAIN"
[stream.app]
firebase_app_id = "1:2:android:3"
[stream.raw]
measurement_id = "G-RAW"
mode = "off"
[device]
app_instance_id = "0123456789abcdef0123456789abcdef"
params = {{ store = "12" }}
[mqtt]
host = "127.0.0.1"
[[mqtt.subscriptions]]
topic = "kiosk/+site/vend"
event = "vend"
params = {{ site = "{{site}}", price = "{{json.price}}", "bad name" = "{{json.note?}}" }}
client_id = "{{json.visitor?}}"
priority = "high"
actor = "human"
[[mqtt.subscriptions]]
topic = "$share/group/sensor/+room/temperature"
event = "temperature"
params = {{ state = "{{value}}", room = "{{room}}" }}
retained = true
[[mqtt.subscriptions]]
topic = "app/#"
stream = "app"
[[mqtt.subscriptions]]
topic = "raw/+place"
stream = "raw"
params = {{ place = "{{place}}" }}
[[mqtt.subscriptions]]
topic = "plain"
[[mqtt.subscriptions]]
topic = "sale"
event = "purchase"
time = "{{json.ts?}}"
client_key = "{{json.card?}}"
[mqtt.subscriptions.params]
transaction_id = "{{json.no}}"
value = "{{json.cents:div100}}"
currency = "EUR"
items = {{ from = "json.lines", item_id = "{{item.slot}}", price = "{{item.cents:div100}}" }}
"""


@pytest.fixture
def state(tmp_path):
    return tmp_path / "state"


@pytest.fixture
def run_map(tmp_path, state, monkeypatch):
    """Run the command: exit status and output."""
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    path = tmp_path / "agent.toml"
    path.write_text(CONFIG.format(state=state))

    def run(*arguments, config=path, stdin=None):
        done = CliRunner().invoke(
            main, ["map", "--config", str(config), *arguments], input=stdin, color=False
        )
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.exit_code, done.output

    return run


@pytest.fixture
def as_json(run_map):
    """Run it for programs: exit status and document."""

    def run(topic, payload, *more, **options):
        code, output = run_map("--topic", topic, "--payload", payload, "--json", *more, **options)
        return code, json.loads(output)

    return run


def test_a_message_is_shown_as_the_event_that_would_lie_in_the_queue(run_map):
    code, output = run_map("--topic", "kiosk/12/vend", "--payload", '{"price":2.50,"visitor":7}')
    assert code == 0
    assert output.startswith("subscription kiosk/+site/vend\nbecomes 1 event\n")
    for words in (
        "name vend", 'param site "12"', "param price 2.5", 'param store "12"', "stream main",
        "priority high", "client id 7", "actor human", "session not said",
    ):  # fmt: skip
        assert words in [" ".join(line.split()) for line in output.splitlines()]


def test_programs_get_it_as_json(as_json):
    code, document = as_json("kiosk/12/vend", '{"price":2.5,"visitor":"v-7"}')
    assert code == 0
    [event] = document.pop("events")
    assert document == {
        "subscription": "kiosk/+site/vend",
        "rejected": [],
        "ignored": None,
        "repaired": {},
    }
    assert event["params"].pop("event_id") == event.pop("event_id")
    assert event == {
        "name": "vend",
        "params": {"store": "12", "site": "12", "price": 2.5},
        "stream": "main",
        "priority": "high",
        "actor": "human",
        "session": None,
        "timestamp_micros": None,
        "time": None,
        "sender": {"client_id": "v-7"},
        "device": False,
        "keyed": False,
    }


SALE = {"no": "0042", "cents": 250, "lines": [{"slot": 7, "cents": "250"}]}


def shown(output):
    return [" ".join(line.split()) for line in output.splitlines()]


def test_texts_numbers_and_items_are_told_apart(run_map):
    code, output = run_map("--topic", "sale", "--payload", json.dumps(SALE))
    assert code == 0
    for words in (
        'param transaction_id "0042"', "param value 2.5", 'param currency "EUR"',
        'param items[0] {"item_id": "7", "price": 2.5}', "time when the message comes",
    ):  # fmt: skip
        assert words in shown(output)


def test_the_time_that_the_publisher_says_is_shown(run_map, as_json):
    sale = json.dumps({**SALE, "ts": "2026-01-01T14:00:00.25+02:00"})
    _, output = run_map("--topic", "sale", "--payload", sale)
    assert "time 2026-01-01T12:00:00.250Z, as the publisher says" in shown(output)
    _, document = as_json("sale", sale)
    [event] = document["events"]
    assert event["time"] == "2026-01-01T12:00:00.250Z"
    assert event["timestamp_micros"] == 1_767_268_800_250_000


def test_of_a_key_only_that_it_becomes_an_id_is_shown(run_map, as_json, monkeypatch):
    monkeypatch.setenv("GA4_ID_SALT", "a salt that is long enough")
    sale = json.dumps({**SALE, "card": "7731"})
    code, output = run_map("--topic", "sale", "--payload", sale)
    assert code == 0
    assert "client id (an id made of the key)" in shown(output)
    assert "7731" not in output
    _, document = as_json("sale", sale)
    [event] = document["events"]
    assert (event["keyed"], event["device"], event["sender"]["client_id"]) == (True, False, None)
    _, document = as_json("sale", json.dumps(SALE))
    assert (document["events"][0]["keyed"], document["events"][0]["device"]) == (False, True)


def test_what_names_nobody_is_the_devices_own_even_before_it_has_an_id(run_map, as_json, state):
    code, output = run_map("--topic", "plain", "--payload", '{"name":"tap"}')
    assert code == 0
    assert "the device's own" in output
    _, document = as_json("plain", '{"name":"tap"}')
    assert document["events"][0]["device"] is True
    assert document["events"][0]["sender"]["client_id"] is None
    assert not state.exists()


def test_an_id_that_the_device_has_is_used_and_nothing_is_written(as_json, state):
    state.mkdir()
    identity = '{"client_id": "77.88", "mqtt_client_id": "m"}'
    (state / "identity.json").write_text(identity)
    _, document = as_json("plain", '{"name":"tap"}')
    assert document["events"][0]["sender"]["client_id"] == "77.88"
    assert document["events"][0]["device"] is True
    assert [path.name for path in state.iterdir()] == ["identity.json"]
    assert (state / "identity.json").read_text() == identity


@pytest.mark.parametrize("damage", ["", "[]", "{}", "\x00"])
def test_a_damaged_identity_is_left_as_it_is(as_json, state, damage):
    state.mkdir()
    (state / "identity.json").write_text(damage)
    code, document = as_json("plain", '{"name":"tap"}')
    assert (code, document["events"][0]["device"]) == (0, True)
    assert (state / "identity.json").read_text() == damage


def test_an_app_stream_has_the_devices_app_instance_id(run_map):
    code, output = run_map("--topic", "app/x", "--payload", '{"name":"tap"}')
    assert code == 0
    assert "app instance id  the device's own" in output


def test_a_message_that_is_no_event_is_a_dead_letter_with_the_reason(run_map, as_json):
    code, output = run_map("--topic", "kiosk/12/vend", "--payload", '{"visitor":"v-7"}')
    assert code == 1
    assert "becomes no event, but a dead letter: params.price: found nothing at" in output
    assert "v-7" not in output
    code, document = as_json("kiosk/12/vend", '{"visitor":"v-7"}')
    assert code == 1
    assert document["events"] == []
    [told] = document["rejected"]
    assert (told["fieldPath"], told["validationCode"]) == ("params.price", "VALUE_REQUIRED")
    assert told["description"].startswith("found nothing at json.price, expected a value")


def test_of_an_array_the_good_events_and_the_bad_ones_are_shown_and_the_status_is_1(as_json):
    code, document = as_json("plain", '[{"name":"a"},3]')
    assert code == 1
    assert [event["name"] for event in document["events"]] == ["a"]
    assert [told["fieldPath"] for told in document["rejected"]] == ["[1]"]


def test_of_an_array_people_are_told_which_element_becomes_what(run_map):
    payload = '[{"name":"a"},{"nmae":"b"},{"name":"c"}]'
    code, output = run_map("--topic", "plain", "--payload", payload)
    assert code == 1
    _, bad, good, *_ = output.splitlines()
    assert bad.startswith("element 2 becomes a dead letter: [1]: found the unknown key 'nmae'")
    assert bad.endswith("; did you mean name?")
    assert good == "the rest becomes 2 events"


def test_what_is_repaired_is_told(run_map, as_json):
    note = json.dumps({"price": 1, "note": "x"})
    code, output = run_map("--topic", "kiosk/12/vend", "--payload", note)
    assert code == 0
    assert "repaired, because GA4 would not take it: param dropped (1)" in output
    _, document = as_json("kiosk/12/vend", note)
    assert document["repaired"] == {"param_dropped": 1}
    assert "bad name" not in document["events"][0]["params"]


def test_a_retained_message_is_ignored_unless_the_subscription_wants_it(run_map, as_json):
    code, output = run_map("--topic", "plain", "--payload", '{"name":"a"}', "--retained")
    assert code == 1
    assert "ignored: it is retained" in output
    code, document = as_json("plain", '{"name":"a"}', "--retained")
    assert (code, document["ignored"], document["events"]) == (1, "retained", [])
    code, document = as_json("sensor/hall/temperature", "21.5", "--retained")
    assert (code, document["ignored"]) == (0, None)
    assert document["subscription"] == "$share/group/sensor/+room/temperature"
    params = document["events"][0]["params"]
    assert params == {"store": "12", "state": 21.5, "room": "hall", "event_id": params["event_id"]}


def test_where_no_subscription_fits_the_filters_are_named(run_map, as_json):
    code, output = run_map("--topic", "other", "--payload", "x")
    assert code == 1
    assert "no subscription fits other\nthe filters are kiosk/+site/vend, $share/" in output
    code, document = as_json("other", "x")
    assert (code, document["subscription"], document["events"]) == (1, None, [])


def test_without_mqtt_no_subscription_fits(run_map, tmp_path):
    empty = tmp_path / "empty.toml"
    empty.write_text("")
    code, output = run_map("--topic", "a", "--payload", "b", config=empty)
    assert code == 1
    assert "the configuration has no [mqtt] table" in output


def test_a_payload_of_a_dash_is_read_from_standard_input(as_json):
    code, document = as_json("sensor/hall/temperature", "-", stdin=b"OPEN")
    assert (code, document["events"][0]["params"]["state"]) == (0, "OPEN")
    code, document = as_json("sensor/hall/temperature", "-", stdin=b"\xff")
    assert (code, document["events"]) == (1, [])
    assert "no UTF-8" in document["rejected"][0]["description"]


def test_before_there_is_a_stream_events_wait_for_one(run_map, as_json, tmp_path, state):
    path = tmp_path / "early.toml"
    path.write_text(
        f'state_directory = "{state}"\n[mqtt]\nhost = "b"\n[[mqtt.subscriptions]]\ntopic = "#"\n'
    )
    code, output = run_map("--topic", "a", "--payload", '{"name":"tap"}', config=path)
    assert code == 0
    assert "waits for the first stream" in output
    _, document = as_json("a", '{"name":"tap"}', config=path)
    assert document["events"][0]["stream"] is None


def test_nothing_of_a_message_steers_the_terminal(run_map):
    event = json.dumps({"name": "a", "params": {"[bold]": "[red]x[/red]\x1b[2J\x9b2J"}})
    code, output = run_map("--topic", "raw/\x1b[2J", "--payload", event)
    assert code == 0
    assert "[red]x[/red]" in output
    assert "param [bold]" in output
    assert "\x1b" not in output
    assert "\x9b" not in output


@pytest.mark.parametrize("topic", ["", "a/+", "#", "a/+site"])
def test_a_filter_is_no_topic_of_a_message(run_map, topic):
    code, output = run_map("--topic", topic, "--payload", "x")
    assert code == 2
    assert "expected --topic to be a topic without + and #" in output


def test_a_broken_configuration_is_told_like_check_does(run_map, tmp_path):
    broken = tmp_path / "broken.toml"
    broken.write_text('[mqtt]\nhost = "b"\n[[mqtt.subscriptions]]\ntopic = "+a"\nevent = "{b}"\n')
    code, output = run_map("--topic", "a", "--payload", "b", config=broken)
    assert code == 2
    assert f"{broken}: mqtt.subscriptions[0].event: found {{b}}, expected one of a," in output


def test_bytes_of_the_command_line_arrive_as_they_are(tmp_path, state):
    path = tmp_path / "agent.toml"
    path.write_text(CONFIG.format(state=state))
    command = [sys.executable, "-m", "agent", "map", "--config", path, "--json"]
    for topic, payload, code in ((b"sensor/\xc3\xa4/temperature", b"\xc3\xa4", 0),
                                 (b"sensor/a/temperature", b"\xff", 1),
                                 (b"sensor/\xff/temperature", b"1", 2)):  # fmt: skip
        done = subprocess.run(
            [*command, "--topic", topic, "--payload", payload], cwd=ROOT, capture_output=True, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        assert b"Traceback" not in done.stderr
