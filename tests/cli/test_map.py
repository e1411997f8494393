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
[device]
app_instance_id = "0123456789abcdef0123456789abcdef"
params = {{ store = "12" }}
[mqtt]
host = "127.0.0.1"
[[mqtt.subscriptions]]
topic = "kiosk/+site/vend"
event = "vend"
params = {{ site = "{{site}}", price = "{{json.price}}", "[bold]" = "{{json.note?}}" }}
client_id = "{{json.visitor?}}"
priority = "high"
actor = "human"
[[mqtt.subscriptions]]
topic = "$share/group/sensor/+room/temperature"
event = "temperature"
params = {{ value = "{{value}}", room = "{{room}}" }}
retained = true
[[mqtt.subscriptions]]
topic = "app/#"
stream = "app"
[[mqtt.subscriptions]]
topic = "plain"
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
    assert document == {"subscription": "kiosk/+site/vend", "rejected": [], "ignored": None}
    assert event.pop("event_id")
    assert event == {
        "name": "vend",
        "params": {"store": "12", "site": "12", "price": 2.5},
        "stream": "main",
        "priority": "high",
        "actor": "human",
        "session": None,
        "timestamp_micros": None,
        "sender": {"client_id": "v-7"},
        "device": False,
    }


def test_what_names_nobody_is_the_devices_own_even_before_it_has_an_id(run_map, as_json, state):
    code, output = run_map("--topic", "plain", "--payload", '{"name":"tap"}')
    assert code == 0
    assert "the device's own" in output
    _, document = as_json("plain", '{"name":"tap"}')
    assert document["events"][0]["device"] is True
    assert document["events"][0]["sender"] == {"client_id": None}
    assert not state.exists()


def test_an_id_that_the_device_has_is_used_and_nothing_is_written(as_json, state):
    state.mkdir()
    identity = '{"client_id": "77.88", "mqtt_client_id": "m"}'
    (state / "identity.json").write_text(identity)
    _, document = as_json("plain", '{"name":"tap"}')
    assert document["events"][0]["sender"] == {"client_id": "77.88"}
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


def test_a_retained_message_is_ignored_unless_the_subscription_wants_it(run_map, as_json):
    code, output = run_map("--topic", "plain", "--payload", '{"name":"a"}', "--retained")
    assert code == 1
    assert "ignored: it is retained" in output
    code, document = as_json("plain", '{"name":"a"}', "--retained")
    assert (code, document["ignored"], document["events"]) == (1, "retained", [])
    code, document = as_json("sensor/hall/temperature", "21.5", "--retained")
    assert (code, document["ignored"]) == (0, None)
    assert document["subscription"] == "$share/group/sensor/+room/temperature"
    assert document["events"][0]["params"] == {"store": "12", "value": 21.5, "room": "hall"}


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
    assert (code, document["events"][0]["params"]["value"]) == (0, "OPEN")
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
    note = json.dumps({"price": 1, "note": "[red]x[/red]\x1b[2J\x9b2J"})
    code, output = run_map("--topic", "kiosk/\x1b[2J/vend", "--payload", note)
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
