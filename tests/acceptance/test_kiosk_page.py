"""kiosk.html with kiosk.toml: what the page sends is taken, by its own requests, in a real browser.

The tests without a browser send what the page would, as a browser would, so that they hold where
there is none.
"""

import http.client
import http.server
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.acceptance.browser import Browser
from tests.acceptance.daemon import ROOT
from tests.acceptance.try_lines import own_params, with_keys
from tests.waiting import PATIENCE, until

FOLDER = ROOT / "device_configs"
PAGE = (FOLDER / "kiosk.html").read_text()
LISTEN = "127.0.0.1:8787"


class Buttons(HTMLParser):
    """The events that stand in the page, and what it loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.events: list[dict] = []
        self.loads: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name == "data-event":
                self.events.append(json.loads(value))
            if name in ("src", "href", "srcset", "action"):
                self.loads.append(value)


@pytest.fixture
def kiosk(setup, make_daemon):
    """The daemon on kiosk.toml, with another port, endpoint and folder."""
    daemon = make_daemon(setup)
    daemon.write(of_kiosk(setup, {}))
    daemon.start()
    return daemon


def of_kiosk(setup, http: dict) -> str:
    own = (FOLDER / "kiosk.toml").read_text().replace("G-XXXXXXXXXX", setup.measurement_id)
    text = with_keys(own, "", state_directory=str(setup.state))
    text = with_keys(text, "stream.main", endpoint=setup.endpoint)
    return with_keys(text, "http", listen=f"127.0.0.1:{setup.http_port}", **http)


def bare(event: dict) -> dict:
    """An event of GA4's as the page had it: without what the agent put on it."""
    kept = {name: value for name, value in own_params(event).items() if name != "site"}
    return {"name": event["name"]} | ({"params": kept} if kept else {})


def test_the_page_loads_nothing_and_speaks_to_the_address_of_the_configuration():
    assert Buttons(PAGE).loads == []
    assert re.findall(r"https?://[^\s\"']+", PAGE) == [f"http://{LISTEN}/events"]
    assert f'listen = "{LISTEN}"' in (FOLDER / "kiosk.toml").read_text()
    assert "fetch(AGENT, " in PAGE
    assert "navigator.sendBeacon(AGENT, " in PAGE


@pytest.mark.slow
def test_what_the_page_has_to_send_is_taken_from_a_file_as_a_browser_sends_it(kiosk, emulator):
    """A text needs no leave beforehand; the answer says that the page may read it."""
    events = Buttons(PAGE).events
    assert len(events) == 3
    connection = http.client.HTTPConnection("127.0.0.1", kiosk.setup.http_port, timeout=PATIENCE)
    headers = {"Origin": "null", "Content-Type": "text/plain;charset=UTF-8"}
    connection.request("POST", "/events", json.dumps(events), headers)
    answer = connection.getresponse()
    assert answer.status == 202
    assert json.loads(answer.read()) == {"accepted": 3, "rejected": []}
    assert answer.headers["Access-Control-Allow-Origin"] == "null"
    connection.close()
    until(lambda: len(emulator.events()) == 3, lambda: f"3 of {emulator.events()}")
    assert [bare(event) for event in emulator.events()] == events
    assert {event["params"]["site"] for event in emulator.events()} == {"store-12"}


@contextmanager
def page(folder: Path, port: int) -> Iterator[tuple[Browser, str]]:
    """A browser, and the address of the page as a file, with the agent's port in it."""
    local = folder / "kiosk.html"
    local.write_text(PAGE.replace(LISTEN, f"127.0.0.1:{port}"))
    with Browser(folder) as browser:
        yield browser, local.as_uri()


@pytest.mark.slow
def test_touches_arrive_by_fetch_and_the_end_of_the_visit_by_beacon(kiosk, emulator, tmp_path):
    """In a real browser, from a file: each touch, then the page is left."""
    touches = Buttons(PAGE).events
    with page(tmp_path, kiosk.setup.http_port) as (browser, address):
        browser.open(address)
        for number in range(len(touches)):
            browser.touch(f"button:nth-of-type({number + 1})")
        wait_shown(browser, "the agent took 4")
        assert len(kiosk_events(emulator, 4)) == 4
        browser.open("about:blank")
        events = kiosk_events(emulator, 5)
    first, *middle, last = events
    assert bare(first) == {"name": "page_view", "params": {"page_title": "Welcome"}}
    assert [bare(event) for event in middle] == touches
    assert last["name"] == "visit_end"
    assert 0 <= last["params"]["seconds"] <= PATIENCE
    assert len({event["params"]["session_id"] for event in events}) == 1
    assert len({event["params"]["event_id"] for event in events}) == 5
    assert all(1 <= event["params"]["engagement_time_msec"] < 60_000 for event in events)
    assert kiosk.drained().received == 5


@pytest.mark.slow
def test_touches_wait_in_the_page_while_the_agent_is_being_restarted(kiosk, emulator, tmp_path):
    with page(tmp_path, kiosk.setup.http_port) as (browser, address):
        browser.open(address)
        assert kiosk.end() == 0
        browser.touch("button")
        wait_shown(browser, "waiting for the agent with 2")
        kiosk.start()
        wait_shown(browser, "the agent took 2")  # it tries again by itself
        assert [event["name"] for event in kiosk_events(emulator, 2)] == [
            "page_view",
            "select_item",
        ]
    assert kiosk.drained().received == 2


@pytest.mark.slow
def test_a_page_of_an_origin_that_is_not_configured_is_told_so_and_nothing_arrives(
    kiosk, setup, emulator, tmp_path
):
    with served(tmp_path) as origin, page(tmp_path, setup.http_port) as (browser, _):
        browser.open(f"{origin}/kiosk.html")
        browser.touch("button")
        wait_shown(browser, "waiting for the agent with 2: Failed to fetch")
        assert kiosk.books().received == 0
        kiosk.end()
        kiosk.write(of_kiosk(setup, {"origins": [origin]}))
        kiosk.start()
        wait_shown(browser, "the agent took 2")
        assert len(kiosk_events(emulator, 2)) == 2


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The folder on a web server; its origin."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as it:
        thread = threading.Thread(target=it.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{it.server_port}"
        finally:
            it.shutdown()
            thread.join()


def wait_shown(browser: Browser, text: str) -> None:
    def shown() -> str:
        return browser.run("document.querySelector('output').textContent")

    until(lambda: text in shown(), lambda: f"{text!r}, found {shown()!r}")


def kiosk_events(emulator, number: int) -> list[dict]:
    """What arrived, in the order of its making, once there is so much."""
    until(lambda: len(emulator.events()) >= number, lambda: f"{number} of {emulator.events()}")
    return sorted(emulator.events(), key=lambda event: event["timestamp_micros"])
