"""``tail``: what comes in and what GA4 would say of it, as people and as programs see it."""

import json
import re
from dataclasses import replace
from datetime import datetime

import pytest

from agent.cli import tail
from agent.config import parse
from agent.control import ControlError
from agent.event import Stamp
from agent.intake.message import Message
from agent.intake.sorting import Sorted, Sorter
from agent.recent import Recent, TurnedAway
from agent.wiring import dry_sorter
from tests.cli.running import ga4_agent
from tests.cli.socket_of import daemon

STAMP = Stamp(wall_us=1_800_000_000_000_000, boot_us=1_000_000, boot_id="boot", trusted=True)
STREAM = '[stream.main]\nmeasurement_id = "G-ABCDE12345"\nsend_event_id = false\n'
OFF = f'{STREAM}mode = "off"\n'
APP = '[stream.app]\nfirebase_app_id = "1:2:android:3"\nsend_event_id = false\n'
TIME = r"\d\d:\d\d:\d\d"


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "agent.toml"
    path.write_text(f'state_directory = "{tmp_path}/state"\n{STREAM}')
    return path


@pytest.fixture
def watch(config, tmp_path, monkeypatch):
    """Looks at what comes in between two looks, until the daemon has no more to tell."""
    monkeypatch.setattr(tail, "PAUSE", 0.01)

    def run(*messages, options=(), streams=STREAM, broken=None):
        config.write_text(broken or f'state_directory = "{tmp_path}/state"\n{streams}')
        sorter = dry_sorter(parse(streams, name="F"))
        recent, coming = Recent(wall=lambda: STAMP.wall_us / 1e6), [[], list(messages)]

        def look(after=None):
            if not coming:
                raise ControlError("the daemon ends")
            for message in coming.pop(0):
                if isinstance(message, TurnedAway):
                    recent.turned_away("http", message.reason, message.why)
                else:
                    recent.note(message, sorter.sort(message, STAMP))
            return recent.after(after).document

        with daemon(tmp_path / "state", recent=look):
            return ga4_agent("tail", "--config", str(config), *options)

    return run


def message(payload, *, source="http", **more):
    text = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return Message(source=source, payload=text, **more)


def test_an_event_is_one_line_with_time_source_stream_name_and_params(watch):
    told = watch(message({"name": "vend", "params": {"slot": "B4", "price": 2.5, "a": True}}))
    assert re.fullmatch(
        TIME + r'  http   main  vend  {"slot": "B4", "price": 2\.5, "a": true}  ok\n', told.stdout
    )


def test_events_come_in_their_order_with_their_sources(watch):
    told = watch(
        message([{"name": "a"}, {"name": "b"}], source="mqtt"),
        message({"name": "c"}, source="send"),
    )
    found = [line.split()[1:4] for line in told.stdout.splitlines()]
    assert found == [["mqtt", "main", "a"], ["mqtt", "main", "b"], ["send", "main", "c"]]


def test_what_is_refused_is_shown_with_the_reason(watch):
    told = watch(message({"name": "vend", "params": 7}))
    assert re.fullmatch(
        TIME + r"  http   refused: vend: params: found a number, expected an object\n", told.stdout
    )


def test_where_it_is_wrong_is_said(watch):
    told = watch(message([{"name": "a"}, {"name": 1}]))
    taken, refused = told.stdout.splitlines()
    assert taken.split()[2:4] == ["main", "a"]
    assert refused.split(maxsplit=2)[2] == (
        "refused: [1].name: found a number, expected the event's name"
    )


def test_what_is_refused_is_named_where_it_has_a_name(watch):
    """Who publishes many kinds of events wants to know which one is meant."""
    bad = {"name": "purchase", "params": {"transaction_id": "1", "value": 1}}
    told = watch(
        message({"name": "vend", "params": 7}),
        message([{"name": "a"}, bad, {"name": 7}]),
        message(
            {"events": [{"name": "a"}, {"name": "b", "actor": 1}]}, source="mqtt", answerable=False
        ),
        streams=f'{STREAM}mode = "strict"\n',
    )
    for said in (
        "refused: vend: params: found a number",
        "refused: purchase: [1].params.currency: ",
        "refused: [2].name: found a number",
        "why: b: events[1].actor: found a number",
    ):
        assert f"  {said}" in told.stdout


def test_what_http_turned_away_is_shown_with_the_word_that_the_ledger_has_for_it(watch):
    away = TurnedAway("forbidden", 'found the Origin "http://shop"; name it')
    told = watch(away, message({"name": "a"}))
    refused, taken = told.stdout.splitlines()
    assert re.fullmatch(
        TIME + r'  http   refused \(forbidden\): found the Origin "http://shop"; name it', refused
    )
    assert taken.endswith("a  {}  ok")
    assert json.loads(watch(away, options=["--json"]).stdout)["turned_away"] == {
        "reason": "forbidden",
        "why": 'found the Origin "http://shop"; name it',
    }


def test_an_event_with_a_time_of_its_own_is_shown_with_that_and_its_day(watch, monkeypatch):
    """Hours after an outage the time of arrival says nothing."""
    monkeypatch.setenv("TZ", "UTC")
    at_us = STAMP.wall_us - 25 * 3600 * 1_000_000
    event = {"name": "a", "timestamp_micros": at_us, "client_id": "1.2"}
    told = watch(message(event, local=False), message({"name": "b"}))
    then, *_, now = told.stdout.splitlines()
    assert then.startswith("2027-01-14 07:00:00  http   main  a")
    assert now.startswith("08:00:00  http   main  b")


def test_a_dead_letter_is_shown_with_why(watch):
    told = watch(message(b"nonsense", source="mqtt", answerable=False))
    letter, why = told.stdout.splitlines()
    assert re.fullmatch(TIME + r"  mqtt   dead letter: malformed", letter)
    assert re.fullmatch(TIME + r"  mqtt   why: found no JSON: .*", why)


def test_programs_get_one_json_object_a_line(watch):
    told = watch(
        message({"name": "vend", "params": {"größe": "\u2028\n"}}),
        message({"nam": 1}),
        message(b"nonsense", source="mqtt", answerable=False),
        options=["--json"],
        streams=OFF,
    )
    lines = told.stdout.split("\n")
    assert lines.pop() == ""
    taken, refused, dead = map(json.loads, lines)
    assert taken["source"] == "http"
    assert [item["name"] for item in taken["items"]] == ["vend"]
    assert [m["validationCode"] for m in taken["validationMessages"][0]] == ["NAME_INVALID"]
    assert (dead["validationMessages"], refused["validationMessages"]) == ([None], [])
    assert taken["rejected"] == refused["items"] == []
    assert refused["rejected"][0]["validationCode"] == "VALUE_INVALID"
    assert all(datetime.fromisoformat(line["time"]) for line in (taken, refused, dead))
    assert dead["items"][0]["reason"] == "malformed"


def test_what_came_in_faster_than_it_can_show_is_counted(watch):
    told = watch(*[message({"name": "x", "params": {"x": "x" * 10_000}})] * 500)
    first, *rest = told.stdout.splitlines()
    missed = int(re.fullmatch(r"… and (\d+) more that came in faster than this can show", first)[1])
    assert missed > 0
    assert missed + len(rest) == 500


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_nothing_that_comes_in_reaches_the_terminal_as_a_command(watch, options):
    """Whoever may hand in an event must not write on root's terminal, nor hide what they did."""
    evil = "a\x1b[2J\x9b31m\r\n\x07\u202ex\x7f[red]"
    told = watch(
        message({"name": evil, "params": {evil: evil}}),
        message({"name": "x", "stream": evil, evil: 1}),
        message(b"x", source=f"mqtt{evil}", answerable=False),
        options=options,
    )
    assert told.stdout
    assert all(character.isprintable() for line in told.stdout.split("\n") for character in line)
    assert "[red]" in told.stdout


def test_a_long_line_is_not_broken(watch):
    told = watch(message({"name": "x", "params": {f"x{n}": "y" * 100 for n in range(20)}}))
    assert len(told.stdout.splitlines()) == 1


def test_a_long_value_is_cut_for_people_and_not_for_programs(watch):
    text = message({"name": "x", "params": {"page_location": "y" * 1000, "z": 1}})
    assert watch(text).stdout.endswith(f'x  {{"page_location": "{"y" * 199}…, "z": 1}}  ok\n')
    assert "y" * 1000 in watch(text, options=["--json"]).stdout


def test_what_was_repaired_is_said_behind_the_event(watch):
    told = watch(message({"name": "vend", "params": {"p": "x" * 101, "_q": 1}}))
    assert told.stdout.endswith('"}  ok; repaired: text_cut 1, param_dropped 1\n')


def test_what_was_repaired_in_several_events_is_said_once(watch):
    long = {"p": "x" * 101}
    told = watch(message([{"name": "a", "params": long}, {"name": "b", "params": long}]))
    first, second, done = told.stdout.splitlines()
    assert (first[-4:], second[-4:]) == ("  ok", "  ok")
    assert re.fullmatch(TIME + r"  http   of these 2: repaired: text_cut 2", done)


def test_where_nothing_is_repaired_it_is_told_what_ga4_would_say(watch):
    params = {"p": "x" * 101, "_q": 1}
    told = watch(message({"name": "a-b", "params": params}), message({"name": "c"}), streams=OFF)
    event, *objections, fine = [line.split(maxsplit=2)[2] for line in told.stdout.splitlines()]
    assert event.startswith("main  a-b  {")
    assert event.endswith("}")
    assert objections == [
        "GA4: name: found a name with other characters, expected letters, digits and _ only",
        "GA4: params.p: found a text of 101 characters, expected at most 100",
        (
            "GA4: params._q: found a name with the prefix _, which GA4 keeps for itself, "
            "expected another"
        ),
    ]
    assert fine == "main  c  {}  ok"


def test_of_many_objections_the_first_are_shown_and_the_rest_counted(watch):
    told = watch(message({"name": "a", "params": {f"_{n}": n for n in range(9)}}), streams=OFF)
    lines = told.stdout.splitlines()
    assert len(lines) == 1 + 3 + 1
    assert lines[-1].endswith("  GA4: … and 6 more")


def test_each_stream_has_its_own_rules(watch):
    view = {"name": "screen_view"}
    streams = f"{OFF}[stream.main.rules]\nga360 = true\n{APP}"
    told = watch(
        message(view),
        message({"name": "a", "params": {"p": "x" * 500}}),
        message({**view, "app_instance_id": "a" * 32}, stream="app"),
        streams=streams,
    )
    web, objection, long, app = told.stdout.splitlines()
    assert "GA4: name: found the name screen_view" in objection
    assert not web.endswith("ok")
    assert long.endswith("ok")
    assert app.endswith("app  screen_view  {}  ok; noted: borrowed_without_session 1")


def test_a_clock_in_1970_is_nothing_that_ga4_would_hear_of(watch):
    """The stamp is corrected before it leaves."""
    stamp = replace(STAMP, wall_us=60_000_000, trusted=False)
    assert watch(message({"name": "a"}, stamp=stamp)).stdout.endswith("a  {}  ok\n")


def test_a_repetition_is_told(watch, monkeypatch):
    monkeypatch.setattr(Sorter, "sort", lambda *_: Sorted(duplicates=2))
    told = watch(message({"name": "a"}))
    assert re.fullmatch(TIME + r"  http   taken before: 2\n", told.stdout)
    monkeypatch.setattr(Sorter, "sort", lambda *_: Sorted(duplicates=2))
    told = watch(message([{"name": "tap"}, {"name": "vend"}]))
    assert re.fullmatch(TIME + r"  http   duplicate: tap, vend\n", told.stdout)


def test_on_the_last_good_configuration_its_rules_hold(watch, config, tmp_path):
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "last-good.toml").write_text(STREAM)
    config_text = f'state_directory = "{tmp_path}/state"\nnonsense = 1\n'
    told = watch(message({"name": "a"}), broken=config_text)
    assert told.stdout.endswith("a  {}  ok\n")


def test_without_any_good_configuration_nothing_is_said_for_ga4(watch, tmp_path):
    config_text = f'state_directory = "{tmp_path}/state"\nnonsense = 1\n'
    told = watch(message({"name": "a"}), broken=config_text)
    assert told.stdout.endswith("a  {}\n")


def test_it_ends_with_1_when_the_daemon_ends(watch):
    told = watch(message({"name": "vend"}))
    assert told.exit_code == 1
    assert told.stderr == "the daemon ends\n"


def test_without_a_daemon_it_ends_with_1_and_says_so(config, tmp_path):
    told = ga4_agent("tail", "--config", str(config))
    assert (told.exit_code, told.stdout) == (1, "")
    assert told.stderr == f"cannot reach the daemon in {tmp_path}/state: it is not running\n"
