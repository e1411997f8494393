"""`ga4-agent validate`: a request body in, Google's messages out; live, beside the agent's."""

import json
import time

import pytest

from agent.emulator import Emulator, Fault
from tests.cli.running import ga4_agent

GOOD = {"client_id": "1.2", "events": [{"name": "tap", "params": {"session_id": 1700000000}}]}


def messages(ended):
    assert ended.stderr == ""
    document = json.loads(ended.stdout)
    assert set(document) == {"validationMessages"}
    return document["validationMessages"]


def validated(body, *options):
    return ga4_agent("validate", *options, stdin=json.dumps(body).encode())


@pytest.mark.parametrize("options", [(), ("-",), ("--stream", "web"), ("--stream", "web", "-")])
def test_a_good_body_has_no_messages(options):
    ended = validated(GOOD, *options)
    assert (ended.exit_code, messages(ended)) == (0, [])


def test_all_that_is_wrong_is_told_at_once():
    ended = validated(GOOD | {"events": [{"name": "error", "params": {"p": "x" * 101}}]})
    assert ended.exit_code == 1
    assert messages(ended) == [
        {
            "fieldPath": "events[0].name",
            "description": "found the name error, which GA4 keeps for itself, expected another",
            "validationCode": "NAME_RESERVED",
        },
        {
            "fieldPath": "events[0].params.p",
            "description": "found a text of 101 characters, expected at most 100",
            "validationCode": "VALUE_OUT_OF_BOUNDS",
        },
    ]


def test_web_and_app_streams_differ():
    body = {"app_instance_id": "a" * 32, "events": [{"name": "screen_view"}]}
    assert validated(body, "--stream", "app").exit_code == 0
    found = messages(validated(body, "--stream", "web"))
    assert [message["validationCode"] for message in found] == ["VALUE_REQUIRED", "NAME_RESERVED"]


def test_a_file_is_read(tmp_path):
    path = tmp_path / "body.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD, indent=4).encode())
    assert ga4_agent("validate", str(path)).exit_code == 0


def test_times_are_judged_by_the_clock_of_this_device():
    now_us = time.time_ns() // 1000
    for time_us, code in ((now_us - 3_600_000_000, 0), (now_us + 7_200_000_000, 1)):
        assert validated(GOOD | {"timestamp_micros": time_us}).exit_code == code


def test_a_key_that_stands_twice_is_told():
    ended = ga4_agent("validate", stdin=b'{"client_id":"1.2","events":[{"name":"a","name":"b"}]}')
    assert ended.exit_code == 1
    [message] = messages(ended)
    assert (message["fieldPath"], message["validationCode"]) == (
        "events[0].name",
        "NAME_DUPLICATED",
    )


def test_the_size_is_that_of_the_file(tmp_path):
    path = tmp_path / "body.json"
    path.write_text(json.dumps(GOOD) + " " * 130_000)
    ended = ga4_agent("validate", str(path))
    assert ended.exit_code == 1
    assert [m["validationCode"] for m in messages(ended)] == ["VALUE_OUT_OF_BOUNDS"]


@pytest.mark.parametrize("text", [b"[]", b"3", b"null", b'"x"'])
def test_json_that_is_no_body_is_told_as_a_message(text):
    ended = ga4_agent("validate", stdin=text)
    assert ended.exit_code == 1
    assert [m["validationCode"] for m in messages(ended)] == ["VALUE_INVALID"]


@pytest.mark.parametrize(
    "text", [b"", b"{", b"\xff", b'{"a":NaN}', b'{"a":1e999}', b"[" * 100_000, b'{"a":"\\ud800"}']
)
def test_what_is_no_json_cannot_be_read(text):
    ended = ga4_agent("validate", stdin=text)
    assert (ended.exit_code, ended.stdout) == (2, "")
    assert ended.stderr.startswith("cannot read the body: found ")


def test_a_file_that_cannot_be_read(tmp_path):
    for path in (tmp_path, tmp_path / "no-such.json"):
        ended = ga4_agent("validate", str(path))
        assert (ended.exit_code, ended.stdout) == (2, "")
        assert ended.stderr.startswith(f"cannot read {path}: ")


def test_nobody_gets_more_than_a_thousand_messages():
    twice = b",".join(b'"k%d":1,"k%d":1' % (i, i) for i in range(2000))
    assert len(messages(ga4_agent("validate", stdin=b"{%s}" % twice))) == 1000


def test_wrong_usage():
    assert ga4_agent("validate", "--stream", "tv").exit_code == 2
    ended = ga4_agent("validate", "--help")
    assert ended.exit_code == 0
    assert "Exit status: 0 nothing is wrong" in ended.stdout


# -- live ---------------------------------------------------------------------------------------

SECRET = "s3cr3t-of-the-stream"
UNTRUE = ("correct", "is right", "valid secret", "secret is ok")


@pytest.fixture
def emulator():
    with Emulator() as running:
        yield running
    assert running.bugs == ()


@pytest.fixture
def live(emulator, tmp_path):
    """Asks the emulator, as a configured stream."""
    (tmp_path / "secret").write_text(SECRET)
    (tmp_path / "secret").chmod(0o600)
    config = tmp_path / "agent.toml"
    rest = f'endpoint = "{emulator.url}"\napi_secret_file = "{tmp_path}/secret"\n'
    config.write_text(
        f'[stream.main]\nmeasurement_id = "G-ABCDE12345"\n{rest}'
        f'[stream.app]\nfirebase_app_id = "1:2:android:3"\n{rest}'
        f'[stream.bare]\nmeasurement_id = "G-BARE"\nendpoint = "{emulator.url}"\n'
    )

    def ask(body, *options):
        text = body if isinstance(body, bytes) else json.dumps(body).encode()
        ended = ga4_agent("validate", "--live", "--config", str(config), *options, stdin=text)
        assert SECRET not in ended.output
        assert emulator.url not in ended.output
        assert not any(lie in ended.output for lie in UNTRUE)
        return ended

    return ask


def test_live_a_good_body_is_found_good_by_both_and_the_secret_is_said_to_be_unchecked(
    live, emulator
):
    ended = live(GOOD)
    assert (ended.exit_code, ended.stderr) == (0, "")
    first, verdict, unchecked = ended.stdout.splitlines()
    assert first == "asked GA4's debug endpoint as main, with ENFORCE_RECOMMENDATIONS"
    assert verdict == "GA4 and the agent find nothing wrong"
    assert unchecked == (
        "not checked: the api_secret and the measurement_id; nowhere does GA4 answer otherwise to "
        "wrong ones"
    )
    [request] = emulator.requests()
    assert (request.path, request.counted) == ("/debug/mp/collect", False)
    assert request.query == {"measurement_id": "G-ABCDE12345", "api_secret_present": True}
    assert request.body == {"validation_behavior": "ENFORCE_RECOMMENDATIONS", **GOOD}


def test_live_what_both_say_stands_together(live):
    ended = live({"client_id": "1.2", "events": [{"name": "error", "params": {"p": "x" * 101}}]})
    assert ended.exit_code == 1
    assert ended.stdout.splitlines()[1:-1] == [
        "GA4 and the agent say:",
        "  GA4    NAME_RESERVED  Event at index: [0] has name [error] which is reserved.",
        (
            "  agent  NAME_RESERVED  events[0].name: found the name error, which GA4 keeps for "
            "itself, expected another"
        ),
        (
            "  GA4    VALUE_OUT_OF_BOUNDS  events[0].params.p: found a text of 101 characters, "
            "expected at most 100"
        ),
        (
            "  agent  VALUE_OUT_OF_BOUNDS  events[0].params.p: found a text of 101 characters, "
            "expected at most 100"
        ),
    ]


def test_live_for_an_app_stream(live, emulator):
    ended = live({"app_instance_id": "a" * 32, "events": [{"name": "screen_view"}]}, "--of", "app")
    assert ended.exit_code == 0
    assert "the api_secret and the firebase_app_id" in ended.stdout
    assert emulator.requests()[0].query["firebase_app_id"] == "1:2:android:3"


def test_live_what_only_one_of_them_says_is_told_apart(live, tmp_path):
    """The stream's own rules hold for the agent, and GA4 does not know of them."""
    rules = "[stream.bare.rules]\nga360 = true\nvalue_and_currency = 'event_builder'\n"
    config = tmp_path / "agent.toml"
    config.write_text(f"{config.read_text()}api_secret_file = '{tmp_path}/secret'\n{rules}")
    params = {"p": "x" * 101, "value": 1}
    ended = live({"client_id": "1.2", "events": [{"name": "a", "params": params}]}, "--of", "bare")
    assert ended.exit_code == 1
    lines = ended.stdout.splitlines()[1:-1]
    assert [lines[0][:13], lines[2][:19]] == ["only GA4 says", "only the agent says"]
    assert "events[0].params.p" in lines[1]
    assert "events[0].params.currency" in lines[3]
    assert "GA4 often names one thing at a time" in lines[2]


def test_live_for_programs(live):
    ended = live({"client_id": "1.2", "events": [{"name": "error"}]}, "--json")
    assert ended.exit_code == 1
    document = json.loads(ended.stdout)
    [pair] = document.pop("both")
    assert document == {
        "stream": "main", "only_ga4": [], "only_agent": [], "secret_checked": False,
    }  # fmt: skip
    assert set(pair["ga4"]) == {"description", "validationCode"}
    assert [each["fieldPath"] for each in pair["agent"]] == ["events[0].name"]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Fault("redirect"), "found 302, expected 200: somebody in between leads elsewhere"),
        (Fault("login_page"), "found a web page, expected JSON"),
        (Fault("body"), "found another answer, expected JSON with validationMessages"),
        (Fault("status", status=503), "found 503, expected 200; try again later"),
        (Fault("cut_after"), "cannot"),
    ],
)
def test_live_what_stands_in_the_way_is_said_with_2(live, emulator, fault, reason):
    emulator.fail(fault)
    ended = live(GOOD)
    assert (ended.exit_code, ended.stdout) == (2, "")
    assert ended.stderr.startswith("cannot ask GA4: ")
    assert reason in ended.stderr


def test_live_without_a_network_it_says_so_with_2(live, emulator):
    emulator.stop()
    ended = live(GOOD)
    assert (ended.exit_code, ended.stdout) == (2, "")
    assert ended.stderr.startswith("cannot ask GA4: ")


def test_live_what_is_no_json_is_not_sent(live, emulator):
    ended = live(b"{")
    assert (ended.exit_code, ended.stdout) == (2, "")
    assert ended.stderr.startswith("cannot read the body: found ")
    assert emulator.attempts == 0


def test_live_another_endpoint_can_be_asked(live, emulator):
    with Emulator() as other:
        assert live(GOOD, "--endpoint", other.url).exit_code == 0
        assert (other.attempts, emulator.attempts) == (1, 0)


@pytest.mark.parametrize(
    "endpoint", ["http://example.com", "ftp://h", "https://h/mp/collect", "https://u:p@h", "x"]
)
def test_live_the_secret_goes_only_where_a_stream_s_may(live, emulator, endpoint):
    ended = live(GOOD, "--endpoint", endpoint)
    assert (ended.exit_code, emulator.attempts) == (2, 0)
    assert "cannot ask there: found " in ended.stderr


def test_live_a_stream_without_a_secret_cannot_be_asked_as(live, emulator):
    ended = live(GOOD, "--of", "bare")
    assert (ended.exit_code, ended.stdout, emulator.attempts) == (2, "", 0)
    assert ended.stderr == (
        "cannot ask GA4 as the stream bare: there is no api_secret; "
        "run: ga4-agent secret set bare\n"
    )


def test_live_a_secret_that_cannot_be_read_is_named(live, tmp_path):
    (tmp_path / "secret").chmod(0o644)
    ended = live(GOOD)
    assert (ended.exit_code, ended.stdout) == (2, "")
    assert ended.stderr.startswith(f"cannot use {tmp_path}/secret: found mode 0644")
    assert "there is no api_secret" not in ended.stderr


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--live", "--stream", "web"], "cannot use --stream with --live: name a stream with --of"),
        (["--of", "main"], "cannot use --of without --live"),
        (["--json"], "cannot use --json without --live"),
        (["--endpoint", "https://h"], "cannot use --endpoint without --live"),
    ],
)
def test_live_wrong_usage(options, reason):
    ended = ga4_agent("validate", *options, stdin=b"{}")
    assert ended.exit_code == 2
    assert reason in " ".join(ended.stderr.split())


def test_live_an_unknown_stream_is_not_repeated(live):
    ended = live(GOOD, "--of", SECRET)
    assert ended.exit_code == 2
    assert "found another name, expected one of main, app, bare" in ended.stderr


def test_live_a_broken_configuration_is_2(tmp_path):
    (tmp_path / "agent.toml").write_text("nonsense = 1\n")
    ended = ga4_agent("validate", "--live", "--config", str(tmp_path / "agent.toml"), stdin=b"{}")
    assert (ended.exit_code, ended.stdout) == (2, "")
    assert "nonsense" in ended.stderr
