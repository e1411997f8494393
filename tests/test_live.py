"""What Google's debug endpoint says is read with patience, and put beside what the agent says."""

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import jsontext
from agent.emulator import Emulator, Fault
from agent.event import Stream
from agent.ga4.duplicates import duplicates
from agent.live import CannotAsk, Finding, ask, compared, enforced
from agent.secret import Secret
from agent.urequests import Client

SECRET = "s3cr3t/of the=stream"
BODY = b'{"client_id":"1.2","events":[{"name":"tap"}]}'


def stream(endpoint, secret=SECRET, **ids):
    return Stream(
        name="main",
        endpoint=endpoint,
        secret=Secret(secret),
        **ids or {"measurement_id": "G-ABCDE12345"},
    )


def asked(endpoint, body=BODY, **more):
    with Client(deadline=5.0) as client:
        return ask(client, stream(endpoint, **more), body)


@contextlib.contextmanager
def answering(status, body, **headers):
    """A server that answers every POST so; gives its address and what it was asked."""
    heard = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            heard.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(status)
            for name, value in {"Content-Length": len(body), **headers}.items():
                self.send_header(name.replace("_", "-"), str(value))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", heard
        finally:
            server.shutdown()
            thread.join()


def finding(path="", code="", description=""):
    return Finding(path=path, code=code, description=description)


# -- what is sent -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        b'{"events":[]}',
        b"{}",
        b' \n{ "a" : 1.50 }\n',
        b'\xef\xbb\xbf{"a":1}',
        b'{"validation_behavior":"RELAXED","a":1}',
        b'{"a":1,"validationBehavior":"RELAXED"}',
    ],
)
def test_enforce_recommendations_is_put_in_and_the_rest_stays(text):
    sent = jsontext.loads(enforced(text))
    assert sent.pop("validation_behavior") == "ENFORCE_RECOMMENDATIONS"
    said = jsontext.loads(text)
    assert sent == {k: v for k, v in said.items() if not k.startswith("validation")}


def test_a_key_that_stands_twice_is_sent_twice():
    sent = enforced(b'{"events":[{"name":"a","name":"b"}]}')
    assert [each.field_path for each in duplicates(sent)] == ["events[0].name"]


@pytest.mark.parametrize("text", [b"[]", b"3", b"null"])
def test_what_is_no_object_is_sent_as_it_is(text):
    assert enforced(text) == text


def test_it_goes_to_the_debug_path_with_the_id_and_secret_of_the_stream():
    with answering(200, b'{"validationMessages":[]}') as (url, heard):
        assert asked(url) == ()
        assert asked(url, firebase_app_id="1:2:android:3") == ()
    quoted = "api_secret=s3cr3t%2Fof+the%3Dstream"
    assert heard == [
        (f"/debug/mp/collect?measurement_id=G-ABCDE12345&{quoted}", BODY),
        (f"/debug/mp/collect?firebase_app_id=1:2:android:3&{quoted}", BODY),
    ]


def test_without_a_secret_it_cannot_ask():
    bare = Stream(name="main", endpoint="http://127.0.0.1:9", measurement_id="G-ABCDE12345")
    with Client() as client, pytest.raises(CannotAsk, match="ga4-agent secret set main"):
        ask(client, bare, BODY)


# -- what is understood -------------------------------------------------------------------------


def test_messages_are_read():
    message = {"fieldPath": "events", "description": "d", "validationCode": "NAME_INVALID"}
    with answering(200, json.dumps({"validationMessages": [message]}).encode()) as (url, _):
        assert asked(url) == (finding("events", "NAME_INVALID", "d"),)


@pytest.mark.parametrize(
    "answer", [b'{"validationMessages":[]}', b"{}", b'{"validationMessages":null}']
)
def test_an_empty_list_may_be_left_out(answer):
    with answering(200, answer) as (url, _):
        assert asked(url) == ()


@pytest.mark.parametrize(
    ("message", "understood"),
    [
        ({}, finding()),
        ({"description": "d"}, finding(description="d")),
        ({"validationCode": "BRAND_NEW", "more": [1]}, finding(code="BRAND_NEW")),
        ({"fieldPath": None, "validationCode": 7}, finding(code="7")),
        ({"description": {"a": "b"}}, finding(description='{"a": "b"}')),
        ("a text", finding(description="a text")),
        (None, finding()),
        ([1], finding(description="[1]")),
    ],
)
def test_messages_of_any_form_are_tolerated(message, understood):
    with answering(200, json.dumps({"validationMessages": [message]}).encode()) as (url, _):
        assert asked(url) == (understood,)


def test_messages_count_whatever_the_status():
    with answering(400, b'{"validationMessages":[{"description":"d"}]}') as (url, _):
        assert asked(url) == (finding(description="d"),)


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (200, b"<!doctype html><title>Welcome</title>", "found a web page, expected JSON"),
        (200, b"", "found another answer"),
        (204, b"", "found 204, expected 200"),
        (200, b'{"status":"accepted"}', "found another answer"),
        (200, b'{"validationMessages":{}}', "found another answer"),
        (200, b"[]", "found another answer"),
        (200, b"[" * 100_000, "found another answer"),
        (302, b"", "login page"),
        (511, b"", "login page"),
        (404, b"not found", "--endpoint https://www.google-analytics.com"),
        (403, b"", "this is not GA4's debug endpoint"),
        (400, b"{}", "this is not GA4's debug endpoint"),
        (429, b"", "try again later"),
        (503, b"", "try again later"),
    ],
)
def test_what_is_no_answer_of_ga4_s_is_said(status, body, reason):
    more = {"Location": "http://portal.invalid/"} if status == 302 else {}
    with answering(status, body, **more) as (url, _), pytest.raises(CannotAsk) as caught:
        asked(url)
    assert reason in str(caught.value)


@pytest.mark.parametrize("kind", ["cut_after", "cut_half", "cut_before", "hang"])
def test_trouble_on_the_network_is_said_without_the_url(kind):
    with Emulator() as emulator:
        emulator.fail(Fault(kind))
        with Client(deadline=0.3) as client, pytest.raises(CannotAsk) as caught:
            ask(client, stream(emulator.url), BODY)
    assert str(caught.value)
    assert caught.value.__cause__ is None
    for hidden in ("s3cr3t", "mp/collect", "G-ABCDE12345"):
        assert hidden not in str(caught.value)


def test_an_answer_that_repeats_the_secret_does_not_get_it_through():
    told = {"description": f"bad {SECRET}", "fieldPath": {SECRET: "s3cr3t%2Fof+the%3Dstream"}}
    with answering(200, json.dumps({"validationMessages": [told, SECRET]}).encode()) as (url, _):
        assert "s3cr3t" not in repr(asked(url))


@pytest.mark.parametrize(("secret", "shown"), [("x", "an expected text"), ("expect", "[hidden]")])
def test_what_is_too_short_for_a_secret_tears_no_words_apart(secret, shown):
    """Somebody tries things out with "x": GA4's words are more than its letters."""
    told = {"validationMessages": [{"description": "an expected text"}]}
    with answering(200, json.dumps(told).encode()) as (url, _):
        assert shown in asked(url, secret=secret)[0].description


def test_an_endless_text_is_cut():
    told = {"validationMessages": [{"description": "x" * 100_000}]}
    with answering(200, json.dumps(told).encode()) as (url, _):
        assert len(asked(url)[0].description) < 2000


# -- who says what ------------------------------------------------------------------------------

OURS = finding("events[1].params.items[0].price", "INTERNAL_ERROR", "found no number")


@pytest.mark.parametrize(
    "theirs",
    [
        finding("", "INTERNAL_ERROR", "Validation of item.price"),
        finding("events", "INTERNAL_ERROR", "?"),
        finding("events.params.items", "INTERNAL_ERROR"),
        finding("events.params.items.price.value", "INTERNAL_ERROR"),
        finding("events[1].params.items[0].price", "BRAND_NEW"),
        finding("events", "INTERNAL_ERROR", "Event at index: [1] has"),
    ],
)
def test_the_same_is_found_though_ga4_names_the_place_coarsely_or_the_code_otherwise(theirs):
    found = compared([theirs], [OURS])
    assert (found.both, found.only_ga4, found.only_agent) == (((theirs, (OURS,)),), (), ())


@pytest.mark.parametrize(
    "theirs",
    [
        finding("", "NAME_INVALID", "another code"),
        finding("", "", "no code and no place"),
        finding("client_id", "INTERNAL_ERROR", "another place"),
        finding("event", "INTERNAL_ERROR", "the beginning of a word is no place"),
        finding("events", "INTERNAL_ERROR", "Event at index: [0] has"),
        finding("events[12].params", "INTERNAL_ERROR", "another event"),
    ],
)
def test_what_differs_is_kept_apart(theirs):
    found = compared([theirs], [OURS])
    assert (found.both, found.only_ga4, found.only_agent) == ((), (theirs,), (OURS,))


def test_one_message_of_ga4_s_may_stand_for_several():
    ours = [finding(f"events[0].params.p{n}", "VALUE_OUT_OF_BOUNDS") for n in range(3)]
    theirs = finding("events.params", "VALUE_OUT_OF_BOUNDS", "too long")
    assert compared([theirs], ours).both == ((theirs, tuple(ours)),)


FINDINGS = st.lists(
    st.builds(
        finding,
        path=st.sampled_from(["", "events", "events[0]", "events[1].name", "client_id"]),
        code=st.sampled_from(["", "NAME_INVALID", "VALUE_REQUIRED"]),
        description=st.sampled_from(["", "Event at index: [1] has", "d"]),
    )
)


@given(theirs=FINDINGS, ours=FINDINGS)
def test_nothing_that_anybody_says_is_lost_and_nothing_is_said_twice(theirs, ours):
    found = compared(theirs, ours)
    assert sorted(map(repr, [*(pair[0] for pair in found.both), *found.only_ga4])) == sorted(
        map(repr, theirs)
    )
    shared = {each for _, alike in found.both for each in alike}
    assert shared | set(found.only_agent) == set(ours)
    assert not shared & set(found.only_agent)
