"""`ga4-agent validate`: a request body in, Google's messages out."""

import json
import time

import pytest

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
