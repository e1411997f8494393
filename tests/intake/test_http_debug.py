"""/debug/mp/collect of the agent: GA4's verdict on a body, without taking it."""

import io
import json
from functools import partial
from urllib.parse import quote, urlencode

import pytest

from agent import wiring
from agent.clock import Clock
from agent.config import parse
from agent.intake.http import Application, Guard
from agent.secret import Secret
from tests.ga4.test_cases import CASES, DECIDED, NOW_US, at_now

WEB, APP = "G-ABCDE12345", "1:1234567890:android:321abc456def7890"
CONFIG = parse(
    f"""
[stream.main]
measurement_id = "{WEB}"
[stream.app]
firebase_app_id = "{APP}"
[stream.large]
measurement_id = "G-LARGE"
[stream.large.rules]
ga360 = true
""",
    name="F",
)
IDS = {WEB: "main", APP: "app", "G-LARGE": "large"}
HEX = "0123456789abcdef0123456789abcdef"
DOCUMENTED = [case for case in CASES if case["docs_strict"] != "undocumented"]
# The two that are about a stream's id are answered 400: it is not configured here.
OF_NO_STREAM = ("q-missing-measurement-id", "id-app-bad-firebase-app-id")
UNDOCUMENTED = [c for c in CASES if c["id"] in DECIDED and c["id"] not in OF_NO_STREAM]


class ShutDoor:
    """Refuses are counted; whatever else knocks is a mistake: nothing may be queued."""

    def __init__(self):
        self.refused = []

    def refuse(self, reason):
        self.refused.append(reason)


class Endpoint:
    """The application without a server around it."""

    def __init__(self, **guard):
        clock = Clock(
            wall=lambda: NOW_US, boot=lambda: 1_000_000, boot_id="b", synchronised=lambda: True
        )
        self.door = ShutDoor()
        self._application = Application(
            door=lambda: self.door,
            guard=Guard(**guard),
            streams=lambda: IDS,
            status=lambda: {"state": "ok"},
            on_bug=lambda bug: None,
            debug=partial(wiring.debug_answer, CONFIG, clock),
        )

    def ask(self, body, *, method="POST", query="", **headers):
        told = []
        environ = {
            "REQUEST_METHOD": method,
            "PATH_INFO": "/debug/mp/collect",
            "QUERY_STRING": query,
            "HTTP_HOST": "localhost",
            "wsgi.input": io.BytesIO(body),
        } | headers
        text = b"".join(self._application(environ, lambda *said: told.append(said)))
        [(status, fields)] = told
        return int(status.split()[0]), dict(fields), text

    def codes(self, payload, **query):
        """The codes of the messages for a payload."""
        status, _, text = self.ask(json.dumps(payload).encode(), query=urlencode(query))
        assert status == 200
        document = json.loads(text)
        assert set(document) == {"validationMessages"}
        return {message["validationCode"] for message in document["validationMessages"]}


@pytest.fixture
def endpoint():
    return Endpoint()


def by_id(case):
    return case["id"]


@pytest.mark.parametrize("case", DOCUMENTED, ids=by_id)
def test_a_documented_case_comes_out_as_documented(endpoint, case):
    codes = endpoint.codes(at_now(case["payload"]), **case["query"])
    assert bool(codes) == (case["docs_strict"] == "invalid")
    assert case["docs_code"] is None or codes == {case["docs_code"]}
    assert endpoint.door.refused == []


@pytest.mark.parametrize(
    "case",
    [case for case in DOCUMENTED if not case["id"].startswith(("id-", "ev-app-only"))],
    ids=by_id,
)
def test_what_no_stream_rule_decides_comes_out_alike_for_an_app(endpoint, case):
    payload = at_now(dict(case["payload"], app_instance_id=HEX))
    codes = endpoint.codes(payload, firebase_app_id=APP)
    assert bool(codes) == (case["docs_strict"] == "invalid")
    assert case["docs_code"] is None or codes == {case["docs_code"]}


@pytest.mark.parametrize("case", UNDOCUMENTED, ids=by_id)
def test_an_undocumented_case_comes_out_as_decided(endpoint, case):
    code = DECIDED[case["id"]][0]
    assert endpoint.codes(at_now(case["payload"]), **case["query"]) == ({code} if code else set())


@pytest.mark.parametrize(
    "query",
    [
        {"measurement_id": "G-UNKNOWN"},
        {"measurement_id": ""},
        {"firebase_app_id": "1233455666:android:abcdefgh"},
    ],
)
def test_a_stream_that_is_not_configured_is_answered_400(endpoint, query):
    """Another's id is a mistake that GA4 would hide."""
    status, _, text = endpoint.ask(b'{"client_id":"1.2","events":[]}', query=urlencode(query))
    [message] = json.loads(text)["validationMessages"]
    assert (status, message["fieldPath"]) == (400, next(iter(query)))
    assert endpoint.door.refused == ["unknown_stream"]


def test_the_query_picks_the_kind_of_stream_and_none_is_the_first(endpoint):
    web, app = {"client_id": "1.2"}, {"app_instance_id": HEX}
    events = {"events": [{"name": "screen_view"}]}
    assert endpoint.codes(app | events, firebase_app_id=APP) == set()
    assert endpoint.codes(web | events, measurement_id=WEB) == {"NAME_RESERVED"}
    assert endpoint.codes(web | events) == {"NAME_RESERVED"}
    assert endpoint.codes(app | events) == {"NAME_RESERVED", "VALUE_REQUIRED"}


def test_the_rules_of_the_stream_hold(endpoint):
    body = {"client_id": "1.2", "events": [{"name": "a", "params": {"p": "x" * 500}}]}
    assert endpoint.codes(body, measurement_id="G-LARGE") == set()
    assert endpoint.codes(body, measurement_id=WEB) == {"VALUE_OUT_OF_BOUNDS"}


def test_what_the_agent_understands_beside_ga4_s_keys_is_no_mistake(endpoint):
    event = {"name": "a", "event_id": "1", "session": "start", "actor": "machine"}
    assert endpoint.codes({"client_id": "1.2", "events": [event]}) == set()


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 50_000, b'{"a":NaN}', b"[]", b"null"])
def test_what_is_no_body_is_a_message_like_any_other(endpoint, body):
    status, fields, text = endpoint.ask(body)
    [message] = json.loads(text)["validationMessages"]
    assert (status, message["validationCode"]) == (200, "VALUE_INVALID")
    assert fields["Content-Type"] == "application/json; charset=utf-8"


def test_a_key_that_stands_twice_is_told(endpoint):
    _, _, text = endpoint.ask(b'{"client_id":"1.2","events":[{"name":"a","name":"b"}]}')
    [message] = json.loads(text)["validationMessages"]
    assert message["validationCode"] == "NAME_DUPLICATED"


def test_a_secret_in_the_query_goes_nowhere(endpoint):
    secret = "s3cr3t/7731"
    query = f"measurement_id={WEB}&api_secret={quote(secret, safe='')}"
    for body in (b"{}", b"nonsense"):
        assert b"s3cr3t" not in endpoint.ask(body, query=query)[2]


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "OPTIONS", "DELETE"])
def test_another_method_is_answered_405(endpoint, method):
    status, fields, _ = endpoint.ask(b"", method=method)
    assert (status, fields["Allow"]) == (405, "POST")


def test_a_page_that_may_ask_is_told_so_before_and_with_the_answer():
    origin = "https://kiosk.example"
    endpoint = Endpoint(origins=frozenset({origin}))
    asks = {"HTTP_ORIGIN": origin, "HTTP_ACCESS_CONTROL_REQUEST_METHOD": "POST"}
    status, fields, _ = endpoint.ask(b"", method="OPTIONS", **asks)
    assert (status, fields["Access-Control-Allow-Methods"]) == (204, "POST")
    status, fields, _ = endpoint.ask(b"{}", HTTP_ORIGIN=origin)
    assert (status, fields["Access-Control-Allow-Origin"]) == (200, origin)


def test_who_may_not_hand_in_events_may_not_ask_either():
    assert Endpoint().ask(b"{}", HTTP_ORIGIN="https://evil.example")[0] == 403
    assert Endpoint().ask(b"{}", HTTP_HOST="evil.example")[0] == 403
    assert Endpoint(token=Secret("t")).ask(b"{}")[0] == 401
    assert Endpoint(token=Secret("t")).ask(b"{}", HTTP_AUTHORIZATION="Bearer t")[0] == 200
