"""HTTP in for pages in a browser: what they must be told before they may send and read."""

import pytest

from agent.intake.http import Application, Guard
from agent.secret import Secret

PAGE = "https://page.lan"
ASKS = {
    "HTTP_ACCESS_CONTROL_REQUEST_METHOD": "POST",
    "HTTP_ACCESS_CONTROL_REQUEST_HEADERS": "content-type",
}
ALLOWS = "Access-Control-Allow-"


@pytest.fixture
def ask(door):
    """Asks the application for a page of this origin: status and headers of its answer."""

    def ask(method, path, origin, *, token=None, **more):
        application = Application(
            door=lambda: door,
            guard=Guard(token=token, origins=frozenset({PAGE})),
            streams=dict,
            status=lambda: {"state": "ok"},
            debug=lambda _stream, _body: {},
            on_bug=lambda bug: pytest.fail(repr(bug)),
        )
        environ = {"REQUEST_METHOD": method, "PATH_INFO": path, "HTTP_HOST": "localhost", **more}
        if origin is not None:
            environ["HTTP_ORIGIN"] = origin
        said = []
        body = application(environ, lambda *head: said.append(head))
        [(status, headers)] = said
        assert len(dict(headers)) == len(headers)
        return int(status[:3]), dict(headers), b"".join(body)

    return ask


@pytest.mark.parametrize(
    ("path", "methods"),
    [("/events", "POST"), ("/mp/collect", "POST"), ("/status", "GET"), ("/healthz", "GET")],
)
def test_a_configured_page_is_told_what_it_may_send(ask, path, methods):
    status, headers, body = ask("OPTIONS", path, PAGE, **ASKS)
    assert (status, body) == (204, b"")
    assert headers[ALLOWS + "Origin"] == PAGE
    assert headers[ALLOWS + "Methods"] == methods
    assert {"Authorization", "Content-Type"} <= set(headers[ALLOWS + "Headers"].split(", "))
    assert headers["Vary"] == "Origin"


def test_it_is_told_so_for_beacons_too_which_are_sent_with_credentials(ask):
    _, headers, _ = ask("OPTIONS", "/events", PAGE, **ASKS)
    assert headers[ALLOWS + "Credentials"] == "true"


def test_only_who_asks_hears_that_a_page_of_the_network_may_speak_to_loopback(ask):
    _, headers, _ = ask("OPTIONS", "/events", PAGE, **ASKS)
    assert ALLOWS + "Private-Network" not in headers
    more = {"HTTP_ACCESS_CONTROL_REQUEST_PRIVATE_NETWORK": "true"}
    _, headers, _ = ask("OPTIONS", "/events", PAGE, **ASKS, **more)
    assert headers[ALLOWS + "Private-Network"] == "true"


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "*", None])
@pytest.mark.parametrize("method", ["OPTIONS", "GET"])
def test_another_page_is_told_nothing(ask, origin, method):
    _, headers, _ = ask(method, "/status", origin, **ASKS)
    assert [name for name in headers if name.startswith("Access-Control")] == []


def test_a_page_is_asked_for_the_token_but_not_when_it_only_asks(ask, queue):
    token = Secret("t0ken")
    assert ask("OPTIONS", "/status", PAGE, token=token, **ASKS)[0] == 204
    assert queue.books.refused == {}
    assert ask("GET", "/status", PAGE, token=token)[0] == 401
    assert ask("GET", "/status", PAGE, token=token, HTTP_AUTHORIZATION="Bearer t0ken")[0] == 200


@pytest.mark.parametrize(
    ("method", "origin", "more"),
    [("OPTIONS", PAGE, {}), ("OPTIONS", None, ASKS), ("POST", PAGE, ASKS), ("GET", None, ASKS)],
)
def test_what_looks_like_asking_does_not_get_past_the_token(ask, method, origin, more):
    assert ask(method, "/status", origin, token=Secret("t0ken"), **more)[0] == 401


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/status", 200), ("GET", "/nothing", 404), ("GET", "/events", 405)],
)
def test_a_configured_page_can_read_every_answer(ask, method, path, status):
    found, headers, body = ask(method, path, PAGE)
    assert (found, headers[ALLOWS + "Origin"]) == (status, PAGE)
    assert headers["Content-Length"] == str(len(body))
    assert headers["Access-Control-Expose-Headers"] == "Retry-After"
