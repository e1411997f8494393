"""Programs that speak to GA4 today reach it through the agent with another host and port.

Each client is the real package or program, in a process of its own, and knows nothing of the
agent. GA4 is away while it sends, so that its events lie in the queue's file, where its secret
must not be.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from http.client import HTTPConnection

import pytest

from tests.acceptance.publishers import DATE_ERROR_US
from tests.waiting import PATIENCE

GOOGLE = "https://www.google-analytics.com"
SECRET = "s3cr3t-of-the-client-4711"  # what the program has always put into its URLs
MEASUREMENT_ID = "G-ACCEPT0001"
APP_ID = "1:123456789012:android:abcdef0123456789"
APP_INSTANCE_ID = "0123456789abcdef0123456789abcdef"
CLIENT_ID = "1234567890.1700000000"
PAGE = "https://kiosk.example"
TARGET = f"/mp/collect?measurement_id={MEASUREMENT_ID}&api_secret={SECRET}"
BODY = {
    "client_id": CLIENT_ID,
    "user_id": "u-17",
    "events": [
        {
            "name": "purchase",
            "params": {
                "transaction_id": "T-4711",
                "currency": "EUR",
                "value": 1.5,
                "items": [{"item_id": "cola", "quantity": 2}],
            },
        },
        {"name": "vend_done", "params": {"slot": 7, "label": "gr\u00fcn"}},
    ],
}

# As its README shows it, but for the marked line: the package has no argument for the host. It
# raises an error when the answer is not 2xx.
GA4MP = f"""
import json
from ga4mp import GtagMP

ga = GtagMP(api_secret="{SECRET}", measurement_id="{MEASUREMENT_ID}", client_id="{CLIENT_ID}")
ga._base_domain = "{GOOGLE}/mp/collect"  # <- this line
ga.store.set_user_property(name="tier", value="flagship")
event = ga.create_new_event(name="vend_done")
event.set_event_param(name="slot", value=7)
event.set_event_param(name="label", value="gr\u00fcn")
ga.send(events=[event])
print(json.dumps(event))
"""

GA4MP_FIREBASE = f"""
import json
from ga4mp import FirebaseMP

ga = FirebaseMP(
    api_secret="{SECRET}", firebase_app_id="{APP_ID}", app_instance_id="{APP_INSTANCE_ID}"
)
ga._base_domain = "{GOOGLE}/mp/collect"  # <- this line
event = ga.create_new_event(name="vend_done")
event.set_event_param(name="slot", value=7)
ga.send(events=[event])
print(json.dumps(event))
"""

GA4MP_LATER = f"""
import datetime, json
from ga4mp import GtagMP

ga = GtagMP(api_secret="{SECRET}", measurement_id="{MEASUREMENT_ID}", client_id="{CLIENT_ID}")
ga._base_domain = "{GOOGLE}/mp/collect"  # <- this line
events = [dict(name="tap", params=dict(id=number)) for number in range(60)]
then = datetime.datetime.now() - datetime.timedelta(hours=5)
ga.send(events=events, date=then)
print(int(then.timestamp()))
"""

GA4MP_POSTPONED = GA4MP.replace("events=[event])", "events=[event], postpone=True)").replace(
    "print(", "ga.postponed_send()\nprint("
)

REQUESTS = f"""
import requests

response = requests.post(
    "{GOOGLE}{TARGET}",
    json={BODY!r},
)
print(response.status_code)
"""


def elsewhere(text, agent):
    """The program, with scheme, host and port of the agent: all that is changed."""
    assert text.count(GOOGLE) == 1
    return text.replace(GOOGLE, agent.url)


@dataclass(frozen=True, slots=True)
class Agent:
    """A running agent, and GA4 behind it, which is away until ``delivered``."""

    daemon: object
    emulator: object

    @property
    def port(self):
        return self.daemon.setup.http_port

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def delivered(self, *marks):
        """The bodies that GA4 gets, after a look for the secret in all that was kept."""
        kept = self._kept()
        assert [mark for mark in marks if mark.encode() not in kept] == []
        assert SECRET.encode() not in kept
        self.emulator.start()
        self.daemon.drained()
        recorded = self.emulator.requests()
        assert SECRET not in repr(recorded)
        return [request for request in recorded if request.counted]

    def _kept(self):
        """Everything in the state directory and the log."""
        kept = self.daemon.log.encode()
        for path in self.daemon.setup.state.rglob("*"):
            with suppress(OSError):  # folders, sockets, and files that were just renamed
                kept += path.read_bytes()
        return kept


@pytest.fixture
def agent(emulator, setup, make_daemon):
    app = f'[stream.app]\nfirebase_app_id = "{APP_ID}"\nendpoint = "{emulator.url}"'
    http = f'origins = ["{PAGE}"]'
    emulator.stop()
    agent = Agent(make_daemon(replace(setup, stream=app, http=http)), emulator)
    agent.daemon.start()
    yield agent
    assert SECRET not in agent.daemon.log


def python(program):
    """What the program prints, run as a user would run it."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def as_sent(events):
    """Without what the agent adds to each: a time beside it, and what tells a repeat."""
    return [
        {**event, "params": {k: v for k, v in event["params"].items() if k != "event_id"}}
        for event in ({name: e[name] for name in e if name != "timestamp_micros"} for e in events)
    ]


def test_ga4mp_for_the_web(agent):
    event = python(elsewhere(GA4MP, agent))
    [request] = agent.delivered("vend_done", CLIENT_ID)
    assert request.query["measurement_id"] == MEASUREMENT_ID
    assert request.body["client_id"] == CLIENT_ID
    assert request.body["user_properties"]["tier"]["value"] == "flagship"
    assert as_sent(request.events) == [event]
    assert {"slot", "label", "session_id", "engagement_time_msec"} == event["params"].keys()
    assert request.events[0]["params"]["event_id"]


def test_ga4mp_that_sends_postponed_events(agent):
    """It writes the one event of a request without an array around it."""
    event = python(elsewhere(GA4MP_POSTPONED, agent))
    [request] = agent.delivered("vend_done", CLIENT_ID)
    [sent] = as_sent(request.events)
    assert (sent["name"], sent["params"]["slot"]) == (event["name"], 7)


def test_ga4mp_for_firebase(agent):
    event = python(elsewhere(GA4MP_FIREBASE, agent))
    [request] = agent.delivered("vend_done", APP_INSTANCE_ID)
    assert request.query["firebase_app_id"] == APP_ID
    assert request.body["app_instance_id"] == APP_INSTANCE_ID
    assert "client_id" not in request.body
    assert as_sent(request.events) == [event]


def test_ga4mp_in_batches_and_for_a_time_that_is_past(agent):
    then = python(elsewhere(GA4MP_LATER, agent))
    events = [event for request in agent.delivered(CLIENT_ID) for event in request.events]
    assert sorted(event["params"]["id"] for event in events) == list(range(60))
    times = [event["timestamp_micros"] for event in sorted(events, key=lambda e: e["params"]["id"])]
    assert all(abs(time_us - then * 1_000_000) < DATE_ERROR_US for time_us in times)
    assert sorted(set(times)) == times, "one after the other, as they were sent"


def test_a_script_with_requests(agent):
    before = time.time_ns() // 1000
    assert python(elsewhere(REQUESTS, agent)) == 204
    check_body(agent, before)


CURL = shutil.which("curl")
AS_CURL_DOES = []  # application/x-www-form-urlencoded, which this body is not


@pytest.mark.skipif(CURL is None, reason="needs curl: apt install curl")
@pytest.mark.parametrize(
    "more", [AS_CURL_DOES, ["--header", "Content-Type: application/json"], ["--http1.0"]]
)
def test_curl(agent, more):
    before = time.time_ns() // 1000
    done = subprocess.run(
        [
            CURL, "--disable", "--silent", "--show-error", "--write-out", "%{http_code}", *more,
            "--data", json.dumps(BODY), elsewhere(GOOGLE + TARGET, agent),
        ],
        env={}, capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "204", "")
    check_body(agent, before)


def check_body(agent, before):
    """BODY has arrived, unchanged but for a time and an id of each event."""
    [request] = agent.delivered("vend_done", CLIENT_ID)
    assert request.query == {"measurement_id": MEASUREMENT_ID, "api_secret_present": True}
    assert {**request.body, "events": as_sent(request.events)} == BODY
    for event in request.events:
        early, late = before - DATE_ERROR_US, time.time_ns() // 1000 + DATE_ERROR_US
        assert early <= event["timestamp_micros"] <= late
    assert len({event["params"]["event_id"] for event in request.events}) == 2


# -- Pages in a browser ---------------------------------------------------------------------------

BEACON = {"Content-Type": "text/plain;charset=UTF-8", "Sec-Fetch-Mode": "no-cors"}
JSON = {"Content-Type": "application/json", "Sec-Fetch-Mode": "cors"}


def browse(agent, method, origin, headers, body=None):
    """What a browser sends for a page of this origin: status and headers of the answer."""
    connection = HTTPConnection("127.0.0.1", agent.port, timeout=PATIENCE)
    try:
        connection.request(method, TARGET, body, {"Origin": origin, **headers})
        response = connection.getresponse()
        response.read()
        return response.status, response.headers
    finally:
        connection.close()


def ask_first(agent, origin):
    """The preflight that browsers send before a POST of JSON."""
    asks = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type",
    }
    return browse(agent, "OPTIONS", origin, asks)


def test_a_beacon_of_a_configured_page(agent):
    before = time.time_ns() // 1000
    status, _ = browse(agent, "POST", PAGE, BEACON, json.dumps(BODY))
    assert status == 204
    check_body(agent, before)


def test_a_fetch_of_json_by_a_configured_page(agent):
    before = time.time_ns() // 1000
    status, headers = ask_first(agent, PAGE)
    assert (status, headers["Access-Control-Allow-Origin"]) == (204, PAGE)
    assert "POST" in headers["Access-Control-Allow-Methods"]
    assert "Content-Type" in headers["Access-Control-Allow-Headers"]
    status, headers = browse(agent, "POST", PAGE, JSON, json.dumps(BODY))
    assert (status, headers["Access-Control-Allow-Origin"]) == (204, PAGE)
    check_body(agent, before)


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://kiosk.example"])
def test_another_page_is_turned_away_and_counted(agent, origin):
    status, headers = browse(agent, "POST", origin, BEACON, json.dumps(BODY))
    assert (status, headers["Access-Control-Allow-Origin"]) == (403, None)
    status, headers = ask_first(agent, origin)
    assert (status, headers["Access-Control-Allow-Origin"]) == (403, None)
    status = agent.daemon.wait(lambda status: status["ledger"]["refused"])
    assert status["ledger"]["refused"] == {"forbidden": 2}
    assert status["ledger"]["received"] == 0
    assert agent.delivered() == []
