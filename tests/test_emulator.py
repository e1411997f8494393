"""The emulator answers like GA4, misbehaves as told, and its record is exact."""

import contextlib
import http.client
import json
import re
import socket
import ssl
import struct
import threading
import time
import urllib.parse
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from agent.emulator import Emulator, Fault, Message, Recorded, validate
from agent.emulator.collect import Judgement, events_in, judge, parse
from agent.emulator.faults import KINDS, FaultPlan, read_faults
from agent.emulator.record import Head
from tests.ga4.test_cases import CASES, DECIDED, NOW_US, at_now

SECRET = "s3cr3t-of-the-stream"
TARGET = f"/mp/collect?measurement_id=G-ABCDE12345&api_secret={SECRET}"
WEB = {"measurement_id": "G-ABCDE12345", "api_secret": SECRET}
APP = {"firebase_app_id": "1:123:android:abc", "api_secret": SECRET}


TAKEN = Judgement(messages=(), countable=True)


class Reply(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    body: bytes


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    with Emulator() as running:
        yield running
    assert running.bugs == ()


def measurement(*names: str) -> bytes:
    events = [{"name": name, "params": {"n": 1}} for name in names]
    return json.dumps({"client_id": "1.2", "events": events}).encode()


@contextlib.contextmanager
def client(emulator: Emulator) -> Iterator[http.client.HTTPConnection]:
    address = urllib.parse.urlsplit(emulator.url)
    assert address.hostname is not None
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=10)
    try:
        yield connection
    finally:
        connection.close()


@contextlib.contextmanager
def raw(emulator: Emulator) -> Iterator[socket.socket]:
    address = urllib.parse.urlsplit(emulator.url)
    with socket.create_connection((address.hostname, address.port or 0), timeout=10) as connection:
        yield connection


def ask(
    connection: http.client.HTTPConnection,
    method: str,
    target: str,
    body: bytes | None = None,
) -> Reply:
    connection.request(method, target, body)
    with connection.getresponse() as response:
        return Reply(response.status, response.headers, response.read())


def call(emulator: Emulator, method: str, target: str, body: bytes | None = None) -> Reply:
    with client(emulator) as connection:
        return ask(connection, method, target, body)


def post(emulator: Emulator, body: bytes, target: str = TARGET) -> Reply:
    return call(emulator, "POST", target, body)


def post_bytes(body: bytes, *, length: int | None = None) -> bytes:
    head = f"POST {TARGET} HTTP/1.1\r\nHost: x\r\nContent-Length: {length or len(body)}\r\n\r\n"
    return head.encode() + body


def read_to_end(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(65536), b""))


def names(emulator: Emulator) -> list[str]:
    return [event["name"] for event in emulator.events()]


def attempts_are(emulator: Emulator, expected: int) -> bool:
    return emulator.attempts == expected


def is_hung(emulator: Emulator) -> bool:
    return any(request.answered == "hang" for request in emulator.requests())


# What GA4 answers


@pytest.mark.parametrize(
    "body", [measurement("vend"), b"", b"not json", b"[]", b"null", b"\xff", b"[" * 100_000]
)
def test_collect_answers_204_to_any_body(emulator: Emulator, body: bytes) -> None:
    reply = post(emulator, body)
    assert (reply.status, reply.body) == (204, b"")
    assert "Content-Length" not in reply.headers
    assert emulator.requests()[0].answered == 204


def test_events_of_a_request_are_counted(emulator: Emulator) -> None:
    post(emulator, measurement("vend", "refill"))
    assert names(emulator) == ["vend", "refill"]
    assert emulator.stats() == {
        "requests": 1,
        "counted_events": 2,
        "attempts_since_fault": 1,
        "violations": {},
        "moved": 0,
    }


def test_a_body_without_a_list_of_events_counts_none(emulator: Emulator) -> None:
    for body in (b"no json", b'{"events": "vend"}', b'{"events": [1, null]}', b"[]"):
        post(emulator, body)
    assert (emulator.attempts, emulator.events()) == (4, ())


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("GET", "/mp/collect", 405),
        ("HEAD", "/mp/collect", 405),
        ("PUT", "/debug/mp/collect", 405),
        ("GET", "/", 404),
        ("POST", "/collect", 404),
        ("GET", "/emulator/nothing", 404),
        ("GET", "/login", 200),
    ],
)
def test_other_methods_and_paths_count_nothing(
    emulator: Emulator, method: str, target: str, status: int
) -> None:
    with client(emulator) as connection:
        assert ask(connection, method, target, measurement("vend")).status == status
        assert ask(connection, "POST", TARGET, measurement("after")).status == 204
    assert names(emulator) == ["after"]


def test_the_debug_endpoint_answers_messages_and_counts_nothing(emulator: Emulator) -> None:
    reply = post(emulator, measurement("vend"), f"/debug{TARGET}")
    assert reply.headers["Content-Type"] == "application/json"
    assert json.loads(reply.body) == {"validationMessages": []}
    reply = post(emulator, b"{}", "/debug/mp/collect?measurement_id=G-1&api_secret=x")
    assert reply.status == 200
    assert json.loads(reply.body)["validationMessages"][0] == {
        "fieldPath": "client_id",
        "description": "Measurement requires a client_id.",
        "validationCode": "VALUE_REQUIRED",
    }
    assert emulator.events() == ()
    assert [request.counted for request in emulator.requests()] == [False, False]


def found(query: dict[str, str], body: bytes) -> list[tuple[str | None, str]]:
    said = validate(query, body, now_us=NOW_US)
    return [(message.field_path, message.code) for message in said]


def test_validation_finds_what_is_missing() -> None:
    assert found(WEB, measurement("vend")) == []
    assert found({}, measurement("vend")) == [
        ("api_secret", "VALUE_REQUIRED"),
        ("measurement_id", "VALUE_REQUIRED"),
    ]
    assert found(WEB, b"{}") == [("client_id", "VALUE_REQUIRED"), ("events", "VALUE_REQUIRED")]
    assert found(APP, b'{"events": []}') == [
        ("app_instance_id", "VALUE_REQUIRED"),
        ("events", "VALUE_REQUIRED"),
    ]
    assert found(WEB, b'{"client_id": "1.2", "events": "vend"}') == [("events", "VALUE_INVALID")]


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[]", b"null", b'{"n": NaN}'])
def test_validation_calls_a_body_that_is_no_object_invalid(body: bytes) -> None:
    assert found(WEB, body) == [(None, "VALUE_INVALID")]


def told(query: dict[str, str], **body: Any) -> list[dict[str, str]]:
    messages = validate(query, json.dumps(body).encode(), now_us=NOW_US)
    return [message.document() for message in messages]


def named(name: str) -> dict[str, str]:
    message, *_ = told(WEB, client_id="1.2", events=[{"name": "good"}, {"name": name}])
    return message


ITEM = {"item_id": "1", "price": "$19"}
PURCHASE = {"transaction_id": "1", "currency": "EUR", "value": 1, "items": [ITEM]}
HOUR = 3_600_000_000


@pytest.mark.parametrize(
    ("said", "path", "code", "text"),
    [
        (
            named("_badEventName"), "events", "NAME_INVALID",
            ("Event at index: [1] has invalid name [_badEventName]. Names must start with an "
            "alphabetic character."),
        ),
        (
            named("campaign@details"), "events", "NAME_INVALID",
            ("Event at index: [1] has invalid name [campaign@details]. Only alphanumeric "
            "characters and underscores are allowed."),
        ),
        (
            named("session_start"), None, "NAME_RESERVED",
            "Event at index: [1] has name [session_start] which is reserved.",
        ),
        (
            told(
                WEB, client_id="1.2", events=[{"name": "purchase", "params": PURCHASE}]
            )[0],
            None, "INTERNAL_ERROR",
            ("Validation of item.price should prevent conversion from unsupported value "
            '[string_value: "$19"]'),
        ),
        (
            told(
                WEB, client_id="1.2", events=[{"name": "a"}], timestamp_micros=NOW_US - 73 * HOUR
            )[0],
            "timestamp_micros", "VALUE_INVALID",
            ("Measurement timestamp_micros has timestamp too far in the past. Measurement protocol "
            "only supports timestamps [72h] into the past. The current time in UNIX microseconds "
            "is [1800000000000000]."),
        ),
        (
            told(APP, app_instance_id="a" * 33, events=[{"name": "a"}])[0],
            "app_instance_id", "VALUE_INVALID",
            ("Measurement app_instance_id is expected to be a 32 digit hexadecimal number but was "
            "[33] digits."),
        ),
        (
            told(APP, app_instance_id="a" * 30 + "gh", events=[{"name": "a"}])[0],
            "app_instance_id", "VALUE_INVALID",
            "Measurement app_instance_id contains non hexadecimal character [g].",
        ),
        (
            told(APP, events=[{"name": "a"}])[0],
            "app_instance_id", "VALUE_REQUIRED",
            "Measurement requires an app_instance_id.",
        ),
        (
            told(WEB, client_id="", events=[{"name": "a"}])[0],
            "client_id", "VALUE_REQUIRED", "Measurement requires a client_id.",
        ),
        (
            told({"measurement_id": "G-1"}, client_id="1.2", events=[{"name": "a"}])[0],
            "api_secret", "VALUE_REQUIRED",
            "Unable to find non-empty parameter [api_secret] value in request.",
        ),
    ],
)  # fmt: skip
def test_what_was_recorded_of_ga4_is_said_word_for_word(
    said: dict[str, str], path: str | None, code: str, text: str
) -> None:
    assert (said.get("fieldPath"), said["validationCode"], said["description"]) == (
        path,
        code,
        text,
    )


def test_the_recorded_words_are_those_of_the_collected_facts() -> None:
    """Every recorded text is reached by one of the messages above, whatever its values."""
    facts = Path(__file__).parent / "ga4" / "data" / "validation_server.json"
    texts = [
        part
        for message in json.loads(facts.read_text())["messages_recorded"]
        for part in message["text"].split(" / ")
    ]
    reached = [
        named("_badEventName"),
        named("campaign@details"),
        named("session_start"),
        *told(WEB, client_id="1.2", events=[{"name": "purchase", "params": PURCHASE}]),
        *told(WEB, client_id="1.2", events=[{"name": "a"}], timestamp_micros=NOW_US - 73 * HOUR),
        *told(APP, app_instance_id="a" * 33, events=[{"name": "a"}]),
        *told(APP, app_instance_id="g" * 32, events=[{"name": "a"}]),
        *told({}),
        *told({"firebase_app_id": "1:2"}),
    ]
    said = {skeleton(message["description"]) for message in reached}
    assert {skeleton(text) for text in texts} <= said


def skeleton(text: str) -> str:
    return re.sub(r"\[(?!72h)[^\]]*\]", "[]", text)


def test_elsewhere_our_words_name_the_very_place() -> None:
    params = {"p": "x" * 101, "_q": 1}
    said = told(WEB, client_id="1.2", events=[{"name": "a", "params": params}])
    assert [(each["fieldPath"], each["validationCode"]) for each in said] == [
        ("events[0].params.p", "VALUE_OUT_OF_BOUNDS"),
        ("events[0].params._q", "NAME_RESERVED"),
    ]


def test_a_single_event_in_place_of_a_list_has_the_index_0() -> None:
    [message] = told(WEB, client_id="1.2", events={"name": "error"})
    assert message["description"] == "Event at index: [0] has name [error] which is reserved."


def test_a_message_repeats_little_of_a_long_value() -> None:
    assert len(named("_" + "x" * 10_000)["description"]) < 300


@pytest.mark.parametrize("behaviour", [None, "RELAXED", "ENFORCE_RECOMMENDATIONS"])
def test_every_rule_is_applied_whatever_the_behaviour(behaviour: str | None) -> None:
    said = told(WEB, client_id="1.2", events=[{"name": "a-b"}], validation_behavior=behaviour)
    assert [each["validationCode"] for each in said] == ["NAME_INVALID"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_every_case_comes_out_on_the_debug_endpoint(case: dict[str, Any]) -> None:
    """As documented or decided; what is in the query is missed as the server was recorded to."""
    with Emulator(clock=lambda: NOW_US / 1e6) as emulator:
        target = f"/debug/mp/collect?{urllib.parse.urlencode(case['query'])}"
        reply = post(emulator, json.dumps(at_now(case["payload"])).encode(), target)
    assert (reply.status, emulator.bugs) == (200, ())
    codes = {message["validationCode"] for message in json.loads(reply.body)["validationMessages"]}
    if case["id"] in ("q-missing-secret", "q-missing-measurement-id"):
        assert codes == {"VALUE_REQUIRED"}
    elif case["docs_strict"] == "undocumented":
        code = DECIDED[case["id"]][0]
        assert codes == ({code} if code else set())
    else:
        assert bool(codes) == (case["docs_strict"] == "invalid")
        assert case["docs_code"] is None or codes == {case["docs_code"]}


# What GA4 does in silence


def test_what_ga4_would_ignore_in_silence_is_in_the_record(tmp_path: Path) -> None:
    record = tmp_path / "record.ndjson"
    events = [{"name": "vend", "params": {"p": "x" * 101}}, {"name": "error"}]
    with Emulator(record=record) as emulator:
        post(emulator, json.dumps({"client_id": "1.2", "events": events}).encode())
        post(emulator, measurement("vend"))
        stats = emulator.stats()
    assert (stats["violations"], stats["counted_events"]) == (
        {"NAME_RESERVED": 1, "VALUE_OUT_OF_BOUNDS": 1},
        3,
    )
    silent, fine = map(json.loads, record.read_text().splitlines())
    assert (silent["answered"], silent["counted"], "violations" in fine) == (204, True, False)
    assert silent["violations"] == [
        {
            "fieldPath": "events[0].params.p",
            "description": "found a text of 101 characters, expected at most 100",
            "validationCode": "VALUE_OUT_OF_BOUNDS",
        },
        {
            "description": "Event at index: [1] has name [error] which is reserved.",
            "validationCode": "NAME_RESERVED",
        },
    ]


@pytest.mark.parametrize(
    ("target", "body"),
    [
        ("/mp/collect", measurement("vend")),
        ("/mp/collect?measurement_id=G-1&api_secret=", measurement("vend")),
        ("/mp/collect?api_secret=x", measurement("vend")),
        ("/mp/collect?firebase_app_id=1:2:android:3&api_secret=x", measurement("vend")),
        (TARGET, b'{"events":[{"name":"vend"}]}'),
        (TARGET, b'{"client_id":"","events":[{"name":"vend"}]}'),
        (TARGET, b'[{"name":"vend"}]'),
        (TARGET, b"client_id=1.2&en=vend"),
    ],
)
def test_what_ga4_drops_as_a_whole_is_answered_204_and_not_counted(
    emulator: Emulator, target: str, body: bytes
) -> None:
    assert post(emulator, body, target).status == 204
    [request] = emulator.requests()
    assert (request.counted, emulator.events()) == (False, ())
    assert request.violations


def test_times_that_ga4_would_move_are_noted_and_left_as_they_came(tmp_path: Path) -> None:
    old, new = NOW_US - 73 * HOUR, NOW_US - 71 * HOUR
    events = [{"name": "a", "timestamp_micros": new}, {"name": "b", "timestamp_micros": old}]
    record = tmp_path / "record.ndjson"
    with Emulator(record=record, clock=lambda: NOW_US / 1e6) as emulator:
        post(emulator, json.dumps({"client_id": "1.2", "events": events}).encode())
    [entry] = map(json.loads, record.read_text().splitlines())
    assert (entry["counted"], entry["moved"]) == (True, ["events[1].timestamp_micros"])
    assert entry["body"]["events"] == events
    assert emulator.stats()["moved"] == 1


def test_of_requests_that_ga4_did_not_take_nothing_is_said(emulator: Emulator) -> None:
    emulator.fail(Fault("status", times=1), Fault("login_page", times=1))
    for _ in range(2):
        post(emulator, measurement("error"))
    post(emulator, measurement("error"), f"/debug{TARGET}")
    assert [request.violations for request in emulator.requests()] == [(), (), ()]
    assert emulator.stats()["violations"] == {}


@given(body=st.binary())
def test_no_body_is_too_strange_to_be_judged(body: bytes) -> None:
    judgement = judge(WEB, body, now_us=NOW_US)
    assert judgement.messages or judgement.countable


def test_a_message_without_a_path_has_no_field_path() -> None:
    message = Message(field_path=None, description="d", code="INTERNAL_ERROR")
    assert message.document() == {"description": "d", "validationCode": "INTERNAL_ERROR"}


# Hypothesis reads the source for constants, and what is named like the secret is hidden.
NAMES = st.text().filter(lambda name: name != "api_secret")
JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(NAMES, inner),
)


@given(document=JSON)
def test_json_without_a_secret_is_recorded_as_it_came_on_one_line(document: Any) -> None:
    recorded = Recorded.of(
        Head.of("POST", "/"), json.dumps(document).encode(), at=0, answered=204, taken=TAKEN
    )
    line = recorded.line()
    assert line.count(b"\n") == 1
    assert json.loads(line)["body"] == document
    assert recorded.events == events_in(document)


@given(body=st.binary())
def test_any_body_is_recorded_as_json_or_as_text(body: bytes) -> None:
    recorded = Recorded.of(Head.of("POST", "/"), body, at=0, answered=204, taken=TAKEN)
    try:
        assert recorded.body == parse(body)
        assert recorded.raw is None
    except ValueError:
        assert (recorded.body, recorded.raw) == (None, body.decode(errors="replace"))


# Connections


def test_many_requests_share_a_connection(emulator: Emulator) -> None:
    with client(emulator) as connection:
        connection.connect()
        first = connection.sock
        for number in range(5):
            assert ask(connection, "POST", TARGET, measurement(f"vend_{number}")).status == 204
            assert connection.sock is first
    assert names(emulator) == [f"vend_{number}" for number in range(5)]


def test_a_client_can_ask_for_the_end_of_the_connection(emulator: Emulator) -> None:
    with raw(emulator) as connection:
        request = post_bytes(measurement("vend")).replace(b"Host: x", b"Connection: close")
        connection.sendall(request)
        assert b"Connection: close" in read_to_end(connection)


def test_the_date_is_the_emulators_clock() -> None:
    with Emulator(clock=lambda: 1_000_000_000.5) as emulator:
        reply = post(emulator, measurement("vend"))
    assert parsedate_to_datetime(reply.headers["Date"]).timestamp() == 1_000_000_000
    assert emulator.requests()[0].at == 1_000_000_000.5


def test_a_body_that_is_cut_short_is_no_request(emulator: Emulator) -> None:
    with raw(emulator) as connection:
        connection.sendall(post_bytes(measurement("vend"), length=1000))
        connection.shutdown(socket.SHUT_WR)
        assert read_to_end(connection) == b""
    assert emulator.attempts == 0


def test_a_client_that_resets_the_connection_is_no_bug(emulator: Emulator) -> None:
    with raw(emulator) as connection:
        connection.sendall(post_bytes(measurement("vend"), length=1000))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert post(emulator, measurement("after")).status == 204


def test_more_than_16_mib_is_413_and_the_client_can_read_it(emulator: Emulator) -> None:
    reply = post(emulator, b" " * (16 * 1024 * 1024 + 1))
    assert (reply.status, reply.headers["Connection"]) == (413, "close")
    request = emulator.requests()[0]
    assert (request.answered, request.counted, request.raw) == (413, False, None)
    assert post(emulator, measurement("vend")).status == 204


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (b"Content-Length: " + b"9" * 5000, 413),
        (b"Content-Length: -1", 400),
        (b"Content-Length: 1_0", 400),
        (b"Transfer-Encoding: chunked", 411),
    ],
)
def test_a_body_of_unknown_length_is_refused(
    emulator: Emulator, header: bytes, status: int
) -> None:
    for path in (b"/mp/collect", b"/emulator/fail"):
        with raw(emulator) as connection:
            connection.sendall(b"POST " + path + b" HTTP/1.1\r\n" + header + b"\r\n\r\n")
            connection.shutdown(socket.SHUT_WR)
            assert read_to_end(connection).split()[1] == str(status).encode()
    assert emulator.attempts == 1


def test_posts_from_many_threads_are_recorded_exactly_once(tmp_path: Path) -> None:
    record = tmp_path / "record.ndjson"

    def send(emulator: Emulator, worker: int) -> None:
        with client(emulator) as connection:
            for number in range(50):
                body = measurement(f"e_{worker}_{number}")
                assert ask(connection, "POST", TARGET, body).status == 204

    with Emulator(record=record) as emulator, ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda worker: send(emulator, worker), range(8)))
    expected = sorted(f"e_{worker}_{number}" for worker in range(8) for number in range(50))
    assert sorted(names(emulator)) == expected
    lines = [json.loads(line) for line in record.read_bytes().splitlines()]
    assert sorted(line["body"]["events"][0]["name"] for line in lines) == expected
    assert emulator.bugs == ()


def test_tls_is_spoken_where_a_context_is_given() -> None:
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.issue_cert("127.0.0.1").configure_cert(server)
    authority.configure_trust(trusting)
    with Emulator(tls=server) as emulator:
        assert emulator.url.startswith("https://127.0.0.1:")
        port = urllib.parse.urlsplit(emulator.url).port
        distrusting = http.client.HTTPSConnection("127.0.0.1", port, timeout=10)
        with contextlib.closing(distrusting), pytest.raises(ssl.SSLCertVerificationError):
            distrusting.request("POST", TARGET, b"")
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=trusting)
        with contextlib.closing(connection):
            assert ask(connection, "POST", TARGET, measurement("vend")).status == 204
            emulator.fail(Fault("cut_before"))
            with pytest.raises(OSError):
                ask(connection, "POST", TARGET, measurement("lost"))
            connection.close()  # whether it broke while sending or while reading
            emulator.recover()
            assert ask(connection, "POST", TARGET, measurement("refill")).status == 204
    assert names(emulator) == ["vend", "refill"]
    assert emulator.bugs == ()


def test_a_client_that_never_shakes_hands_holds_up_nobody() -> None:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(server)
    with Emulator(tls=server) as emulator, raw(emulator), raw(emulator) as second:
        second.sendall(b"plain text is no handshake\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            read_to_end(second)
    assert emulator.bugs == ()


# Faults


@pytest.mark.parametrize("status", [302, 400, 401, 408, 413, 429, 500, 503])
def test_a_status_is_answered_and_not_counted(emulator: Emulator, status: int) -> None:
    emulator.fail(Fault("status", status=status))
    reply = post(emulator, measurement("vend"))
    assert (reply.status, reply.body, reply.headers["Retry-After"]) == (status, b"", None)
    assert emulator.events() == ()
    assert emulator.requests()[0].answered == status


def test_a_2xx_by_fault_is_counted_because_ga4_said_yes(emulator: Emulator) -> None:
    emulator.fail(Fault("status", status=202))
    assert post(emulator, measurement("vend")).status == 202
    assert names(emulator) == ["vend"]


def test_429_can_carry_retry_after(emulator: Emulator) -> None:
    emulator.fail(Fault("status", status=429, retry_after="30"))
    reply = post(emulator, measurement("vend"))
    assert (reply.status, reply.headers["Retry-After"]) == (429, "30")


def test_a_connection_outlives_a_status(emulator: Emulator) -> None:
    emulator.fail(Fault("status", times=1))
    with client(emulator) as connection:
        assert ask(connection, "POST", TARGET, measurement("vend")).status == 503
        kept = connection.sock
        assert ask(connection, "POST", TARGET, measurement("vend")).status == 204
        assert connection.sock is kept


def test_match_limits_a_fault_to_bodies_with_that_text(emulator: Emulator) -> None:
    emulator.fail(Fault("status", status=400, match='"poison"'))
    statuses = [
        post(emulator, measurement(*sent)).status
        for sent in (["vend"], ["vend", "poison"], ["poisonous"])
    ]
    assert statuses == [204, 400, 204]
    assert names(emulator) == ["vend", "poisonous"]


def test_faults_follow_each_other_as_they_are_used_up(emulator: Emulator) -> None:
    emulator.fail(Fault("status", times=2), Fault("status", status=429, times=1))
    assert [post(emulator, b"").status for _ in range(4)] == [503, 503, 429, 204]


def test_a_new_fault_replaces_the_old_one(emulator: Emulator) -> None:
    emulator.fail(Fault("status", status=500))
    emulator.fail(Fault("status", status=429))
    emulator.recover()
    assert post(emulator, b"").status == 204


def test_a_delay_answers_after_its_seconds_and_counts(emulator: Emulator) -> None:
    emulator.fail(Fault("delay", seconds=0.2))
    begin = time.monotonic()
    assert post(emulator, measurement("vend")).status == 204
    assert time.monotonic() - begin >= 0.2
    assert emulator.requests()[0].answered == 204
    assert names(emulator) == ["vend"]


def test_a_delayed_request_is_in_the_record_before_its_answer(emulator: Emulator) -> None:
    emulator.fail(Fault("delay", seconds=600))
    with raw(emulator) as connection:
        connection.sendall(post_bytes(measurement("vend")))
        assert emulator.wait_for(lambda: names(emulator) == ["vend"], timeout=10)
        emulator.recover()
        assert connection.recv(12) == b"HTTP/1.1 204"


def test_a_hang_never_answers_and_closes_once_it_is_cleared(emulator: Emulator) -> None:
    emulator.fail(Fault("hang"))
    with raw(emulator) as connection:
        connection.sendall(post_bytes(measurement("vend")))
        assert emulator.wait_for(lambda: is_hung(emulator), timeout=10)
        connection.settimeout(0.1)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        connection.settimeout(10)
        emulator.recover()
        assert connection.recv(1) == b""
    assert emulator.events() == ()


def test_cut_before_resets_before_the_body_was_sent(emulator: Emulator) -> None:
    emulator.fail(Fault("cut_before"))
    with raw(emulator) as connection:
        connection.sendall(post_bytes(b"", length=1000))
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
    request = emulator.requests()[0]
    assert (request.answered, request.counted, request.body) == ("cut_before", False, None)


def test_cut_before_later_in_the_plan_waits_for_its_turn(emulator: Emulator) -> None:
    emulator.fail(Fault("status", match="poison", times=1), Fault("cut_before", times=1))
    assert post(emulator, measurement("poison")).status == 503
    with pytest.raises(ConnectionResetError):
        post(emulator, measurement("vend"))
    assert post(emulator, measurement("vend")).status == 204


def test_cut_half_sends_a_part_of_the_status_line_and_counts_nothing(emulator: Emulator) -> None:
    emulator.fail(Fault("cut_half"))
    with raw(emulator) as connection:
        connection.sendall(post_bytes(measurement("vend")))
        assert read_to_end(connection) == b"HTTP/1.1 2"
    with pytest.raises(http.client.BadStatusLine):
        post(emulator, measurement("vend"))
    assert emulator.events() == ()


def test_cut_after_counts_and_says_nothing(emulator: Emulator) -> None:
    emulator.fail(Fault("cut_after"))
    with raw(emulator) as connection:
        connection.sendall(post_bytes(measurement("vend")))
        assert read_to_end(connection) == b""
    assert names(emulator) == ["vend"]
    assert emulator.requests()[0].answered == "cut_after"


def test_a_login_page_is_a_200_of_html_that_counts_nothing(emulator: Emulator) -> None:
    emulator.fail(Fault("login_page"))
    reply = post(emulator, measurement("vend"))
    assert reply.status == 200
    assert reply.headers["Content-Type"].startswith("text/html")
    assert b"<form" in reply.body
    assert emulator.events() == ()


def test_a_redirect_leads_to_a_login_page_that_is_up(emulator: Emulator) -> None:
    emulator.fail(Fault("redirect"))
    reply = post(emulator, measurement("vend"))
    assert (reply.status, reply.headers["Location"]) == (302, "/login")
    page = call(emulator, "GET", reply.headers["Location"])
    assert (page.status, b"<form" in page.body) == (200, True)
    assert [request.path for request in emulator.requests()] == ["/mp/collect", "/login"]
    assert emulator.events() == ()


def test_a_redirect_can_lead_elsewhere(emulator: Emulator) -> None:
    emulator.fail(Fault("redirect", location="http://portal.invalid/"))
    assert post(emulator, b"").headers["Location"] == "http://portal.invalid/"


def test_a_drip_sends_the_usual_answer_byte_by_byte(emulator: Emulator) -> None:
    emulator.fail(Fault("drip", seconds=0.002))
    pieces: list[bytes] = []
    with raw(emulator) as connection:
        connection.sendall(post_bytes(measurement("vend")))
        while not b"".join(pieces).endswith(b"\r\n\r\n"):
            pieces.append(connection.recv(65536))
    assert b"".join(pieces).startswith(b"HTTP/1.1 204 ")
    assert len(pieces) > 10
    assert names(emulator) == ["vend"]


def test_a_body_that_ga4_would_not_send_counts_nothing(emulator: Emulator) -> None:
    emulator.fail(Fault("body"))
    reply = post(emulator, measurement("vend"))
    assert (reply.status, reply.headers["Content-Type"]) == (200, "application/json")
    assert json.loads(reply.body)
    assert emulator.events() == ()


def test_the_debug_endpoint_fails_too_and_never_counts(emulator: Emulator) -> None:
    emulator.fail(Fault("cut_after", times=1), Fault("status", times=1))
    with pytest.raises(http.client.RemoteDisconnected):
        post(emulator, measurement("vend"), f"/debug{TARGET}")
    assert post(emulator, measurement("vend"), f"/debug{TARGET}").status == 503
    assert emulator.events() == ()


def test_attempts_since_the_fault_go_on_after_recovery(emulator: Emulator) -> None:
    post(emulator, b"")
    emulator.fail(Fault("status"))
    assert emulator.attempts_since_fault == 0
    post(emulator, b"")
    emulator.recover()
    post(emulator, b"")
    assert (emulator.attempts_since_fault, emulator.attempts) == (2, 3)


@pytest.mark.parametrize(
    "fields",
    [
        dict(kind="explode"),
        dict(kind=["status"]),
        dict(kind="status", status=199),
        dict(kind="status", status="503"),
        dict(kind="status", retry_after="30\r\nX: y"),
        dict(kind="status", retry_after=30),
        dict(kind="delay", seconds=-1),
        dict(kind="delay", seconds=float("nan")),
        dict(kind="delay", seconds=float("inf")),
        dict(kind="delay", seconds=True),
        dict(kind="hang", times=0),
        dict(kind="hang", match=""),
        dict(kind="redirect", location="/a\nb"),
        dict(kind="cut_before", match="vend"),
        dict(kind="status", colour="red"),
        dict(),
        [],
        "status",
        None,
        [dict(kind="hang"), 7],
    ],
)
def test_a_fault_that_makes_no_sense_is_refused(fields: Any) -> None:
    with pytest.raises(ValueError, match=r"^cannot set the fault: found .*, expected "):
        read_faults(fields)


@given(kinds=st.lists(st.sampled_from(KINDS)), times=st.integers(1, 3))
def test_each_fault_of_a_plan_is_met_as_often_as_it_says_and_in_order(
    kinds: list[Any], times: int
) -> None:
    plan = FaultPlan()
    plan.replace(tuple(Fault(kind, times=times) for kind in kinds))
    met = []
    while (due := plan.take("")) is not None:
        met.append(due.fault.kind)
    assert met == [kind for kind in kinds for _ in range(times)]
    assert not plan.take_unread()


# The record


def test_a_line_is_in_the_file_once_the_sender_has_its_answer(tmp_path: Path) -> None:
    record = tmp_path / "record.ndjson"
    with Emulator(record=record, clock=lambda: 12.5) as emulator:
        post(emulator, measurement("vend"))
        lines = record.read_text().splitlines()
        assert [json.loads(line) for line in lines] == [
            {
                "at": 12.5,
                "method": "POST",
                "path": "/mp/collect",
                "query": {"measurement_id": "G-ABCDE12345", "api_secret_present": True},
                "body": json.loads(measurement("vend")),
                "answered": 204,
                "counted": True,
            }
        ]
        post(emulator, b"no json", "/mp/collect")
        last = json.loads(record.read_text().splitlines()[1])
    assert (last["body"], last["raw"]) == (None, "no json")
    assert last["query"] == {"api_secret_present": False}


def test_the_file_says_what_was_done(tmp_path: Path) -> None:
    record = tmp_path / "record.ndjson"
    with Emulator(record=record) as emulator:
        for fault in (Fault("cut_after"), Fault("login_page"), Fault("status", status=500)):
            emulator.fail(fault)
            with contextlib.suppress(http.client.RemoteDisconnected):
                post(emulator, measurement("vend"))
    entries = [json.loads(line) for line in record.read_bytes().splitlines()]
    assert [(entry["answered"], entry["counted"]) for entry in entries] == [
        ("cut_after", True),
        ("login_page", False),
        (500, False),
    ]


@pytest.mark.parametrize(
    ("target", "body"),
    [
        (TARGET, measurement("vend")),
        (f"/mp/collect?API_SECRET={SECRET}&api_secret={SECRET}", b""),
        (f"/mp/collect?api%5Fsecret={SECRET}", b""),
        (f"/mp/collect&api_secret={SECRET}", b""),
        (TARGET, f"v=2&api_secret={SECRET}&en=vend".encode()),
        (TARGET, f'{{"api_secret": "{SECRET}", "events": [}}'.encode()),
        (TARGET, json.dumps({"events": [{"params": {"api_secret": SECRET}}]}).encode()),
    ],
)
def test_the_secret_is_in_no_record(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], target: str, body: bytes
) -> None:
    record = tmp_path / "record.ndjson"
    with Emulator(record=record) as emulator:
        post(emulator, body, target)
        emulator.fail(Fault("cut_before"))
        with pytest.raises(ConnectionResetError):
            post(emulator, body, target)
    assert len(record.read_bytes().splitlines()) == 2
    assert SECRET not in record.read_text()
    assert SECRET not in repr(emulator.requests())
    assert SECRET not in "".join(capfd.readouterr())


def test_only_the_newest_requests_are_kept_in_memory_but_all_are_counted() -> None:
    with Emulator(keep=2) as emulator:
        for number in range(4):
            post(emulator, measurement(f"e_{number}"))
    assert names(emulator) == ["e_2", "e_3"]
    assert emulator.stats()["counted_events"] == emulator.attempts == 4


def test_wait_for_says_when_time_is_up(emulator: Emulator) -> None:
    assert emulator.wait_for(lambda: emulator.attempts == 0, timeout=0)
    assert not emulator.wait_for(lambda: emulator.attempts == 1, timeout=0.01)


def test_wait_for_wakes_at_a_request_from_another_thread(emulator: Emulator) -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(post, emulator, measurement("vend"))
        assert emulator.wait_for(lambda: names(emulator) == ["vend"], timeout=10)


def test_a_bug_is_kept_and_shown(capfd: pytest.CaptureFixture[str]) -> None:
    def broken() -> float:
        raise ZeroDivisionError("the clock of this test")

    with Emulator(clock=broken) as emulator, pytest.raises(http.client.RemoteDisconnected):
        post(emulator, b"")
    assert [type(bug) for bug in emulator.bugs] == [ZeroDivisionError]
    assert "ZeroDivisionError: the clock of this test" in capfd.readouterr().err


# Control from another process


def test_faults_are_set_and_cleared_over_http(emulator: Emulator) -> None:
    fault = b'{"kind": "status", "status": 429, "retry_after": "30", "match": "vend"}'
    assert call(emulator, "POST", "/emulator/fail", fault).status == 204
    assert post(emulator, measurement("vend")).headers["Retry-After"] == "30"
    assert post(emulator, measurement("refill")).status == 204
    assert call(emulator, "POST", "/emulator/recover").status == 204
    assert post(emulator, measurement("vend")).status == 204
    stats = call(emulator, "GET", "/emulator/stats").body
    assert json.loads(stats) == {
        "requests": 3,
        "counted_events": 2,
        "attempts_since_fault": 3,
        "violations": {},
        "moved": 0,
    }
    lines = call(emulator, "GET", "/emulator/events").body.splitlines()
    assert [json.loads(line)["name"] for line in lines] == ["refill", "vend"]


def test_a_list_of_faults_can_be_set_over_http(emulator: Emulator) -> None:
    faults = b'[{"kind": "status", "times": 1}, {"kind": "login_page", "times": 1}]'
    assert call(emulator, "POST", "/emulator/fail", faults).status == 204
    assert [post(emulator, b"").status for _ in range(3)] == [503, 200, 204]


@pytest.mark.parametrize(
    "body", [b"", b"{", b'{"kind": "explode"}', b'{"kind": "hang", "colour": 1}', b"[]", b"\xff"]
)
def test_a_fault_over_http_that_makes_no_sense_is_400_and_changes_nothing(
    emulator: Emulator, body: bytes
) -> None:
    emulator.fail(Fault("status", status=500))
    reply = call(emulator, "POST", "/emulator/fail", body)
    assert reply.status == 400
    assert reply.body.startswith(b"cannot set the fault: found ")
    assert b", expected " in reply.body
    assert post(emulator, b"").status == 500


def test_the_control_works_while_everything_else_is_cut(emulator: Emulator) -> None:
    emulator.fail(Fault("cut_before"))
    assert call(emulator, "GET", "/emulator/stats").status == 200
    assert call(emulator, "POST", "/emulator/recover").status == 204
    assert emulator.attempts == 0


# Start and stop


def test_stop_releases_what_hangs_waits_drips_and_idles_at_once() -> None:
    emulator = Emulator()
    emulator.start()
    emulator.fail(
        Fault("hang", times=1),
        Fault("delay", seconds=600, times=1),
        Fault("drip", seconds=600, times=1),
    )
    with raw(emulator) as idle, raw(emulator) as hung, raw(emulator) as late, raw(emulator) as slow:
        for connection in (hung, late, slow):
            expected = emulator.attempts + 1
            connection.sendall(post_bytes(measurement("vend")))
            assert emulator.wait_for(partial(attempts_are, emulator, expected), timeout=10)
        begin = time.monotonic()
        emulator.stop()
        assert time.monotonic() - begin < 2
        assert [connection.recv(100) for connection in (hung, late, idle)] == [b"", b"", b""]
    assert emulator.bugs == ()


def test_stop_refuses_connections_and_start_takes_the_same_port_again() -> None:
    emulator = Emulator()
    emulator.start()
    url = emulator.url
    post(emulator, measurement("vend"))
    emulator.stop()
    emulator.stop()
    assert "emulator" not in [thread.name for thread in threading.enumerate()]
    with pytest.raises(ConnectionRefusedError):
        post(emulator, measurement("lost"))
    with emulator:
        assert emulator.url == url
        post(emulator, measurement("refill"))
    assert names(emulator) == ["vend", "refill"]
    assert emulator.bugs == ()


def test_the_record_is_appended_to_after_a_restart(tmp_path: Path) -> None:
    record = tmp_path / "record.ndjson"
    emulator = Emulator(record=record)
    for _ in range(2):
        with emulator:
            post(emulator, measurement("vend"))
    assert len(record.read_bytes().splitlines()) == 2


def test_an_emulator_is_started_once() -> None:
    with Emulator() as emulator, pytest.raises(RuntimeError, match="found it running"):
        emulator.start()


def test_a_url_needs_a_port() -> None:
    with pytest.raises(RuntimeError, match="expected a started emulator"):
        _ = Emulator().url
    assert Emulator(host="::1", port=80).url == "http://[::1]:80"


def test_an_occupied_port_is_said_with_what_to_do(emulator: Emulator) -> None:
    port = urllib.parse.urlsplit(emulator.url).port
    assert port is not None
    with pytest.raises(OSError, match=rf"cannot listen on 127.0.0.1:{port}: .*choose another"):
        Emulator(port=port).start()


def test_a_record_that_cannot_be_written_stops_the_start(tmp_path: Path) -> None:
    emulator = Emulator(record=tmp_path / "missing" / "record.ndjson")
    with pytest.raises(FileNotFoundError):
        emulator.start()
    emulator.stop()


def test_serve_runs_until_it_is_told_to_stop() -> None:
    emulator = Emulator()

    class Stop(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            return post(emulator, measurement("vend")).status == 204

    emulator.serve(Stop())
    assert names(emulator) == ["vend"]
    with pytest.raises(ConnectionRefusedError):
        post(emulator, b"")
