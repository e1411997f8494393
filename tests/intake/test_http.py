"""HTTP in: who is let in, what is answered, and that no client can hold up the others."""

import contextlib
import http.client
import io
import itertools
import json
import logging
import socket
import struct
import threading
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.intake.http import HEADERS_MAX, RETRY_AFTER, Application, Guard
from agent.intake.source import SourceUnavailable
from agent.progress import Progress
from agent.queue.event_queue import FILE_NAME, EventQueue
from agent.secret import Secret
from tests.intake.rigs import Runner, UnixConnection, fill_up, make_source
from tests.intake.stored import events
from tests.waiting import PATIENCE, until

SECRET = "s3cr3t-7731"
TAP = b'{"name":"tap"}'
BODY = b'{"client_id":"1.1","events":[{"name":"tap"}]}'
COLLECT = "/mp/collect?measurement_id=G-MAIN"
MAX_BODY = 100_000
HALF_HEADERS = b"POST /events HTTP/1.1\r\nHost: localhost\r\n"


class Server:
    """A running source, and a client of it."""

    def __init__(self, door, **options):
        self.bugs = []
        self.source = make_source(door, self.bugs.append, **{"max_body": MAX_BODY} | options)
        self._runner = Runner(self.source)
        until(lambda: self.source.port is not None, "the server")

    def ask(self, method, target, body=None, headers=(), **more):
        """One request on a connection of its own: the response, its body in ``.text``."""
        connection = http.client.HTTPConnection("127.0.0.1", self.source.port, timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.request(method, target, body, dict(headers), **more)
            return answer(connection)

    def post(self, target, body=TAP, **headers):
        return self.ask("POST", target, body, {k.replace("_", "-"): v for k, v in headers.items()})

    def say(self, data):
        """A connection on which these bytes were sent."""
        sock = socket.create_connection(("127.0.0.1", self.source.port), timeout=PATIENCE)
        sock.sendall(data)
        return sock

    def stop(self):
        self._runner.stop(self._wake)

    def _wake(self):
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", self.source.port)).close()


def answer(connection):
    response = connection.getresponse()
    response.text = response.read().decode()
    return response


@pytest.fixture
def serve(make_door):
    """Starts servers with the options given; they are stopped at the end."""
    servers = []

    def start(**options):
        door = options.pop("door", None) or make_door()
        servers.append(Server(door, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def server(serve):
    server = serve()
    yield server
    assert server.bugs == []


# -- routes -------------------------------------------------------------------------------------


def test_a_measurement_protocol_body_is_answered_204_without_a_body(server, tmp_path):
    response = server.post(COLLECT, BODY)
    assert (response.status, response.text) == (204, "")
    assert [event.sender.client_id for event in events(tmp_path)] == ["1.1"]


def test_a_wrong_body_is_answered_in_ga4_s_terms_and_nothing_of_it_is_taken(server, tmp_path):
    body = b'{"client_id":"1.1","events":[{"name":"a"},{"name":""},{"nome":"c"}]}'
    response = server.post(COLLECT, body)
    assert response.status == 400
    assert response.headers["Content-Type"] == "application/json; charset=utf-8"
    found = json.loads(response.text)["validationMessages"]
    assert [set(message) for message in found] == [
        {"fieldPath", "description", "validationCode"}
    ] * 2
    assert [m["fieldPath"] for m in found] == ["events[1].name", "events[2]"]
    assert events(tmp_path) == []


@pytest.mark.parametrize("payload", [b"", b"\xff", b"{", TAP, b"[" * 50_000])
def test_what_is_no_body_is_answered_400(server, payload):
    response = server.post(COLLECT, payload)
    assert (response.status, len(json.loads(response.text)["validationMessages"])) == (400, 1)


def test_events_are_answered_202_with_what_was_refused(server, tmp_path):
    response = server.post("/events", b'[{"name":"a"},{"name":""},{"name":"c"}]')
    assert response.status == 202
    found = json.loads(response.text)
    assert (found["accepted"], [r["fieldPath"] for r in found["rejected"]]) == (2, ["[1].name"])
    assert [event.name for event in events(tmp_path)] == ["a", "c"]
    assert json.loads(server.post("/events").text) == {"accepted": 1, "rejected": []}


def test_events_none_of_which_is_good_are_answered_400(server):
    response = server.post("/events", b"[7]")
    assert response.status == 400
    assert json.loads(response.text)["accepted"] == 0


@pytest.mark.parametrize("path", ["/mp/collect", "/events"])
def test_a_full_queue_is_answered_503_with_when_to_come_again(
    serve, make_door, make_event, tmp_path, path
):
    (tmp_path / "small").mkdir()
    full = EventQueue.open(tmp_path / "small", max_bytes=4 * 1024 * 1024)
    fill_up(full, make_event)
    told = []
    server = serve(door=make_door(queue=full), on_turned_away=lambda *said: told.append(said))
    response = server.post(path, BODY)
    full.close()
    assert (response.status, response.headers["Retry-After"]) == (503, RETRY_AFTER)
    assert response.text == "the queue is full\n"
    assert told == [("full", "the queue is full")]


@pytest.mark.parametrize(
    ("state", "status"),
    [("ok", 200), ("offline", 200), ("paused", 200), ("disk_full", 503), ("read_only", 503)],
)
def test_healthz_is_ill_when_events_cannot_be_kept(serve, state, status):
    response = serve(status=lambda: {"state": state}).ask("GET", "/healthz")
    assert (response.status, response.text) == (status, f"{state}\n")


def test_status_is_the_json_of_the_status(serve):
    response = serve(status=lambda: {"state": "ok", "queue": {"events": 3}}).ask("GET", "/status")
    assert (response.status, json.loads(response.text)) == (
        200,
        {"state": "ok", "queue": {"events": 3}},
    )


def test_head_is_get_without_the_body(server):
    response = server.ask("HEAD", "/healthz")
    assert (response.status, response.text, response.headers["Content-Length"]) == (200, "", "3")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        *[(m, "/mp/collect", "POST") for m in ("GET", "HEAD", "PUT", "DELETE", "OPTIONS")],
        ("GET", "/events", "POST"),
        ("POST", "/healthz", "GET"),
        ("DELETE", "/status", "GET"),
        ("BREW", "/events", "POST"),
    ],
)
def test_another_method_is_answered_405_with_those_that_work(server, method, path, allowed):
    response = server.ask(method, path)
    assert (response.status, response.headers["Allow"]) == (405, allowed)


@pytest.mark.parametrize("path", ["/", "/mp", "/mp/collect/", "/Events", "/events/../status", "//"])
def test_an_unknown_path_is_answered_404_with_those_that_work(server, path):
    response = server.ask("POST", path, TAP)
    assert response.status == 404
    assert all(known in response.text for known in ("/mp/collect", "/events", "/healthz"))


# -- bodies -------------------------------------------------------------------------------------


def test_a_body_below_the_limit_is_read(server):
    body = TAP + b" " * (MAX_BODY - 1 - len(TAP))
    assert server.post("/events", body).status == 202


def test_a_larger_body_is_answered_413_by_its_announcement(server, tmp_path):
    with server.say(
        b"POST /events HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % (MAX_BODY + 1)
    ) as sock:
        assert sock.makefile("rb").readline().split()[1] == b"413"
    assert events(tmp_path) == []


def test_a_larger_body_is_answered_413_when_it_comes_in_chunks(server, tmp_path):
    """The client sends just what is read, so that no reset can overtake the answer."""
    chunk = b"100000\r\n"
    request = HALF_HEADERS + b"Transfer-Encoding: chunked\r\n\r\n" + chunk
    with server.say(request + b" " * (MAX_BODY - len(chunk))) as sock:
        assert sock.makefile("rb").readline().split()[1] == b"413"
    assert events(tmp_path) == []


def test_a_body_in_chunks_is_a_body(server, tmp_path):
    response = server.ask("POST", "/events", iter([TAP[:5], TAP[5:]]), encode_chunked=True)
    assert response.status == 202
    assert [event.name for event in events(tmp_path)] == ["tap"]


@pytest.mark.parametrize("encoding", ["gzip", "br", "GZIP", "x"])
def test_an_encoded_body_is_answered_415(server, encoding):
    assert server.post("/events", Content_Encoding=encoding).status == 415
    assert server.post("/events", Content_Encoding="identity").status == 202


@pytest.mark.parametrize(
    "kind", ["text/plain;charset=UTF-8", "application/json", "application/x-www-form-urlencoded"]
)
def test_the_content_type_does_not_matter_for_beacons_say_text_plain(server, kind):
    assert server.post(COLLECT, BODY, Content_Type=kind).status == 204


def test_headers_beyond_all_measure_are_refused(server):
    request = HALF_HEADERS + b"X: "
    with server.say(request + b"x" * (HEADERS_MAX - len(request))) as sock:
        assert sock.makefile("rb").readline().split()[1] == b"431"


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"POST /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        (b"POST /status HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
        (HALF_HEADERS + b"Content-Encoding: gzip\r\n\r\n", 415),
        (HALF_HEADERS + b"Content-Length: 99999999\r\n\r\n", 413),
        (HALF_HEADERS + b"Content-Length: x\r\n\r\n", 400),
        (HALF_HEADERS + b"Transfer-Encoding: gzip\r\n\r\n", 501),
        (b"POST http://[bad/ HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\r\n\r\n", 400),
    ],
)
def test_what_goes_to_the_wrong_place_or_is_no_request_is_answered_and_counted(
    server, queue, request_, status
):
    with server.say(request_) as sock:
        assert sock.makefile("rb").readline().split()[1] == b"%d" % status
    assert queue.books.refused == {"unfit": 1}


def test_a_look_that_finds_nothing_is_no_event_that_was_refused(server, queue):
    assert [server.ask("GET", path).status for path in ("/", "/events")] == [404, 405]
    assert queue.books.refused == {}


# -- what somebody who looks on is told ---------------------------------------------------------


def test_what_is_turned_away_before_the_door_is_told_with_the_reason_and_nothing_private(
    serve,
):
    """A page with a wrong origin is the mistake of an installation, and it cannot read why."""
    told = []
    server = serve(
        on_turned_away=lambda reason, why: told.append((reason, why)),
        guard=Guard(token=Secret("t0ken")),
    )
    mine = {"Authorization": "Bearer t0ken"}
    query = f"?measurement_id=G-OTHER&api_secret={SECRET}"

    def ask(path, **headers):
        return server.ask("POST", path + query, TAP, {**mine, **headers}).status

    assert [
        ask("/events", Origin="https://shop.example"),
        ask("/events", Host="box.lan:8787"),
        server.post("/events" + query).status,
        ask("/events"),
        ask("/no/7731"),
        ask("/status"),
        ask("/events", **{"Content-Encoding": "gzip"}),
        ask("/events", **{"Content-Length": str(MAX_BODY + 1)}),
    ] == [403, 403, 401, 400, 404, 405, 415, 413]
    found, not_here = "cannot take this: found", ", not allowed here; name it in [http]"
    smaller = "send less at once, or raise max_body in [http]"
    assert told == [
        ("forbidden", f'{found} the Origin "https://shop.example"{not_here} origins'),
        ("forbidden", f'{found} the Host "box.lan"{not_here} hosts'),
        ("forbidden", "cannot take this: expected the header Authorization: Bearer TOKEN"),
        (
            "unknown_stream",
            "measurement_id: found an unknown measurement_id, expected one of agent.toml",
        ),
        (
            "unfit",
            "cannot find this: expected /mp/collect, /debug/mp/collect, /events, /healthz, /status",
        ),
        ("unfit", "cannot do this: expected GET"),
        ("unfit", "cannot take this: expected no Content-Encoding"),
        ("unfit", f"cannot read this: Request Entity Too Large (413); {smaller}"),
    ]


def test_what_was_taken_or_only_looked_at_is_not_told(serve):
    told = []
    server = serve(on_turned_away=lambda *said: told.append(said))
    assert server.post("/events").status == 202
    assert [server.ask("GET", path).status for path in ("/", "/events", "/status")] == [
        404,
        405,
        200,
    ]
    assert told == []


def test_whoever_is_sent_away_is_told_where_to_be_named(server):
    """As people read it who try with curl."""
    answer = server.post("/events", Origin="http://k\xf6sk")
    assert answer.text == (
        'cannot take this: found the Origin "http://k\\u00f6sk", not allowed here; '
        "name it in [http] origins\n"
    )
    assert len(server.post("/events", Origin="x" * 5000).text) < 250


# -- who may speak ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:8787", "127.0.0.1", "127.0.0.1:1", "127.8.9.1", "[::1]", "[::1]:8787",
     "kiosk.lan", "kiosk.lan:8787", "Kiosk.LAN"],
)  # fmt: skip
def test_loopback_and_configured_hosts_may_speak(serve, host):
    server = serve(guard=Guard(hosts=frozenset({"kiosk.lan"})))
    assert server.post("/events", Host=host).status == 202


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8787", "localhost.evil.example", "127.0.0.1.evil.example",
     "192.168.1.5", "192.168.1.5:8787", "[2001:db8::1]:8787", "evil.example#localhost", "0.0.0.0",
     "", ":8787", "127.1", "2130706433", "localhost, evil.example"],
)  # fmt: skip
def test_a_page_that_rebinds_its_name_to_this_device_may_not_speak(server, queue, tmp_path, host):
    assert server.post("/events", Host=host).status == 403
    assert server.ask("GET", "/status", headers={"Host": host}).status == 403
    assert queue.books.refused == {"forbidden": 2}
    assert events(tmp_path) == []


def test_without_a_host_nobody_may_speak(server):
    with server.say(b"POST /events HTTP/1.0\r\nContent-Length: 14\r\n\r\n" + TAP) as sock:
        assert sock.makefile("rb").readline().split()[1] == b"403"


def listens(path):
    """It exists from its bind on, but takes connections only after its listen."""
    with socket.socket(socket.AF_UNIX) as sock:
        return sock.connect_ex(str(path)) == 0


def test_on_a_unix_socket_the_host_does_not_matter(door, tmp_path):
    path = tmp_path / "agent.sock"
    bugs = []
    runner = Runner(make_source(door, bugs.append, unix_path=path, guard=Guard(check_host=False)))
    until(lambda: listens(path), "the socket")
    with contextlib.closing(UnixConnection(path)) as connection:
        connection.request("POST", "/events", TAP, {"Host": "any.example"})
        assert answer(connection).status == 202
    assert path.stat().st_mode & 0o777 == 0o660
    runner.stop()
    assert bugs == []


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "null", "", "http://localhost", "https://page.lan.evil.example",
     "http://page.lan", "https://page.lan:444", "https://other.lan, https://page.lan"],
)  # fmt: skip
def test_pages_of_an_unknown_origin_may_not_speak(serve, queue, origin):
    server = serve(guard=Guard(origins=frozenset({"https://page.lan"})))
    assert server.post("/events", Origin=origin).status == 403
    assert queue.books.refused == {"forbidden": 1}


def test_programs_without_origin_and_configured_pages_may_speak(serve):
    server = serve(guard=Guard(origins=frozenset({"https://page.lan"})))
    assert server.post("/events").status == 202
    assert server.post("/events", Origin="https://page.lan").status == 202


@pytest.mark.parametrize(
    "given_",
    [None, "", "Bearer", "Bearer ", "Bearer wrong", "bearer t0ken", "t0ken", "Bearer t0ken ü",
     "Basic t0ken", "Bearer  t0ken"],
)  # fmt: skip
def test_where_there_is_a_token_nobody_speaks_without_it(serve, queue, given_):
    server = serve(guard=Guard(token=Secret("t0ken")))
    headers = {} if given_ is None else {"Authorization": given_}
    response = server.ask("POST", "/events", TAP, headers)
    assert response.status == 401
    assert "Bearer TOKEN" in response.text
    assert queue.books.refused == {"forbidden": 1}


def test_with_the_token_all_is_as_without(serve):
    server = serve(guard=Guard(token=Secret("t0ken")))
    assert server.post("/events", Authorization="Bearer t0ken").status == 202
    assert server.ask("GET", "/status", headers={"Authorization": "Bearer t0ken"}).status == 200
    assert server.ask("GET", "/status").status == 401


def test_the_guard_does_not_show_its_token():
    assert "t0ken" not in repr(Guard(token=Secret("t0ken")))


# -- streams and secrets ------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/mp/collect", "/events"])
def test_the_id_in_the_query_picks_the_stream(serve, tmp_path, path):
    server = serve()
    assert server.post(f"{path}?measurement_id=G-SECOND&x=1", BODY).status < 300
    assert server.post(path, BODY).status < 300
    assert [event.stream for event in events(tmp_path)] == ["second", "main"]


def test_an_app_s_id_picks_an_app_s_stream(door, tmp_path):
    application = Application(
        door=lambda: door,
        guard=Guard(),
        streams=lambda: {"1:2:android:3": "app"},
        status=dict,
        debug=lambda _stream, _body: {},
        on_bug=pytest.fail,
    )
    assert status_of(application, "firebase_app_id=1%3A2%3Aandroid%3A3", TAP) == "202"
    assert [event.stream for event in events(tmp_path)] == ["app"]


def status_of(application, query, body, **more):
    """The answer's status of the WSGI application by itself."""
    said = []
    environ = {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": "/events",
        "QUERY_STRING": query,
        "HTTP_HOST": "localhost",
        "wsgi.input": io.BytesIO(body),
    }
    b"".join(application(environ | more, lambda status, _headers: said.append(status)))
    return said[0].split()[0]


@pytest.mark.parametrize("path", ["/mp/collect", "/events"])
@pytest.mark.parametrize(
    "query", ["measurement_id=G-OTHER", "firebase_app_id=1:2", "measurement_id="]
)
def test_an_unknown_id_in_the_query_is_answered_400_and_counted(server, queue, path, query):
    response = server.post(f"{path}?{query}", BODY)
    assert response.status == 400
    (message,) = json.loads(response.text)["validationMessages"]
    assert message["fieldPath"] == query.partition("=")[0]
    assert "OTHER" not in response.text
    assert queue.books.refused == {"unknown_stream": 1}


def test_a_secret_in_the_query_is_never_logged_nor_stored_nor_told(serve, tmp_path, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    state = {"state": "ok"}
    server = serve(status=lambda: state)
    told = []
    for path in ("/mp/collect", "/events", "/healthz", "/status", "/other"):
        for stream, body in itertools.product(("G-MAIN", "G-OTHER"), (BODY, b"?", b"")):
            target = f"{path}?measurement_id={stream}&api_secret={SECRET}"
            for method in ("POST", "GET"):
                response = server.ask(method, target, body)
                told.append(f"{response.headers}{response.text}")
    del state["state"]  # a bug: the handler's error is logged with its request
    response = server.ask("GET", f"/healthz?api_secret={SECRET}")
    told.append(f"{response.headers}{response.text}")
    assert (response.status, [type(bug) for bug in server.bugs]) == (500, [KeyError])
    printed = "".join(capfd.readouterr())
    files = b"".join(path.read_bytes() for path in tmp_path.glob(f"{FILE_NAME}*"))
    assert len(events(tmp_path)) == 2
    for place in (*told, caplog.text, printed, files.decode("latin-1"), str(server.bugs)):
        assert "7731" not in place


# -- slow clients -------------------------------------------------------------------------------

HALF_BODY = HALF_HEADERS + b"Content-Length: 5000\r\n\r\n"
HALF_CHUNK = HALF_HEADERS + b"Transfer-Encoding: chunked\r\n\r\n1000\r\n"


def drip(sock, drop):
    """Send a byte every now and then until the server hangs up; the seconds it took."""
    begin = time.monotonic()
    sock.settimeout(0.05)
    while time.monotonic() < begin + PATIENCE:
        try:
            sock.sendall(drop)
            if sock.recv(1000) == b"":
                break
        except TimeoutError:
            continue
        except OSError:
            break
    return time.monotonic() - begin


def test_clients_that_drip_are_dropped_and_others_are_served_meanwhile(serve, tmp_path):
    """In the request line, in headers, in a body, in a chunk: the total deadline holds."""
    server = serve(read_deadline=0.3, threads=1)
    seconds, served = [], 0
    with contextlib.ExitStack() as stack:
        threads = []
        for beginning in (b"P", HALF_HEADERS + b"X-Y: ", HALF_BODY, HALF_CHUNK):
            slow = stack.enter_context(server.say(beginning))
            threads.append(threading.Thread(target=lambda s=slow: seconds.append(drip(s, b"x"))))
            threads[-1].start()
        while any(thread.is_alive() for thread in threads):
            assert server.post("/events").status == 202
            served += 1
    assert len(seconds) == 4
    assert all(0.2 < took < 5 for took in seconds)
    assert served > 1
    assert len(events(tmp_path)) == served


def test_many_clients_that_drip_do_not_keep_another_out(serve):
    server = serve(read_deadline=0.3, threads=1)
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(server.say(HALF_BODY)) for _ in range(50)]
        assert server.post("/events").status == 202
        for sock in slow:
            sock.settimeout(PATIENCE)
            assert sock.recv(1) == b""


def test_a_client_that_keeps_its_connection_is_not_dripping(serve):
    server = serve(read_deadline=0.3)
    connection = http.client.HTTPConnection("127.0.0.1", server.source.port, timeout=PATIENCE)
    with contextlib.closing(connection):
        until_ = time.monotonic() + 1.5  # past the deadline, and past a sweep
        while time.monotonic() < until_:
            connection.request("POST", "/events", TAP)
            assert answer(connection).status == 202
            kept = connection.sock
        assert kept is not None


def test_a_slow_disk_is_not_a_slow_client(serve, queue, tmp_path):
    server = serve(read_deadline=0.1)
    statuses = []
    with queue.tran_lock:
        asking = threading.Thread(target=lambda: statuses.append(server.post("/events").status))
        asking.start()
        until(lambda: queue.committing_s() > 1.5, "a sweep or two")
        assert statuses == []
    asking.join()
    assert statuses == [202]
    assert len(events(tmp_path)) == 1


def test_a_client_that_goes_away_is_no_error(server, queue, tmp_path, caplog):
    for beginning in (b"", HALF_HEADERS, HALF_BODY):
        server.say(beginning).close()
    for request in (
        b"POST /events HTTP/1.1\r\nHost: localhost\r\nContent-Length: 14\r\n\r\n" + TAP,
        b"GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ):
        with queue.tran_lock, server.say(request) as sock:
            # A reset, as from a browser tab that is closed: the answer finds nobody.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if b"POST" in request:
                until(queue.committing_s, "the commit")
    until(lambda: len(events(tmp_path)) == 1, "the event: it was taken, if nobody was told")
    assert server.post("/events").status == 202
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []


# -- bugs, ports, threads -----------------------------------------------------------------------


def test_a_bug_in_a_handler_is_heard_of(serve):
    def broken():
        raise LookupError("a bug")

    server = serve(status=broken)
    assert server.ask("GET", "/status").status == 500
    assert [repr(bug) for bug in server.bugs] == ["LookupError('a bug')"]


headers = st.dictionaries(
    st.sampled_from(
        ["HTTP_HOST", "HTTP_ORIGIN", "HTTP_AUTHORIZATION", "HTTP_CONTENT_ENCODING", "PATH_INFO"]
    ),
    st.text(st.characters(max_codepoint=255), max_size=30),
    max_size=3,
)
queries = st.one_of(
    st.text(st.characters(max_codepoint=255), max_size=40),
    st.text("%&=;+measurement_id0Gé", max_size=40),
    st.binary(max_size=20).map(lambda b: "measurement_id=" + "".join(f"%{x:02x}" for x in b)),
)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(query=queries, more=headers, body=st.binary(max_size=50), token=st.sampled_from([None, "ü"]))
def test_no_request_is_a_bug(door, query, more, body, token):
    application = Application(
        door=lambda: door,
        guard=Guard(token=token and Secret(token), origins=frozenset({"x"})),
        streams=lambda: {"G-MAIN": "main"},
        status=lambda: {"state": "ok"},
        debug=lambda _stream, _body: {},
        on_bug=lambda bug: pytest.fail(repr(bug)),
    )
    assert status_of(application, query, body, **more) in "202 400 401 403 404 405 415"


def test_a_port_in_use_makes_the_source_unavailable_and_leaves_nothing_open(serve, door):
    taken = serve().source.port
    source = make_source(door, pytest.fail, address=("127.0.0.1", taken))
    with pytest.raises(SourceUnavailable) as caught:
        source.run(threading.Event(), Progress(name="http", patience=60))
    assert str(caught.value) == f"cannot listen on 127.0.0.1:{taken}: Address already in use"


def test_a_socket_in_a_folder_that_is_not_there_makes_the_source_unavailable(door, tmp_path):
    path = tmp_path / "gone" / "agent.sock"
    source = make_source(door, pytest.fail, unix_path=path)
    with pytest.raises(SourceUnavailable, match=f"cannot listen on {path}: No such file"):
        source.run(threading.Event(), Progress(name="http", patience=60))


def test_a_socket_that_a_killed_run_left_is_taken_over(door, tmp_path):
    path = tmp_path / "agent.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    runner = Runner(make_source(door, pytest.fail, unix_path=path))
    connection = UnixConnection(path)
    with contextlib.closing(connection):
        until(lambda: reachable(connection), "the new socket")
        connection.request("POST", "/events", TAP)
        assert answer(connection).status == 202
    runner.stop()


def reachable(connection):
    try:
        connection.connect()
    except OSError:
        connection.close()
        return False
    return True


def test_the_loop_shows_that_it_lives(door):
    beats = []

    class Watched(Progress):
        def beat(self):
            beats.append(1)
            super().beat()

    stop = threading.Event()
    source = make_source(door, pytest.fail)
    thread = threading.Thread(
        target=source.run, args=(stop, Watched(name="http", patience=60)), name="http"
    )
    thread.start()
    until(lambda: len(beats) >= 3, "beats without any traffic")
    stop.set()
    thread.join()


def test_posts_of_many_threads_are_each_taken_once_and_share_commits(serve, queue, tmp_path):
    server, statements = serve(), []
    queue._putter.set_trace_callback(statements.append)
    threads = [
        threading.Thread(target=post_fifty, args=(server.source.port, letter))
        for letter in "abcdefgh"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    queue._putter.set_trace_callback(None)
    found = sorted(event.event_id for event in events(tmp_path))
    assert found == sorted(f"{letter}{number}" for letter in "abcdefgh" for number in range(50))
    assert queue.books.received == 400
    assert 0 < statements.count("COMMIT") < 400


def post_fifty(port, letter):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    with contextlib.closing(connection):
        for number in range(50):
            body = json.dumps({"name": "tap", "event_id": f"{letter}{number}"}).encode()
            connection.request("POST", "/events", body)
            assert answer(connection).status == 202


def test_a_stop_answers_what_has_come_in_even_what_waits_for_a_thread(serve, queue, tmp_path):
    server = serve(threads=1)
    statuses = []
    asking = [
        threading.Thread(target=lambda: statuses.append(server.post("/events").status))
        for _ in range(3)
    ]
    with queue.tran_lock:
        for thread in asking:
            thread.start()
        until(lambda: queue.committing_s() > 0.5, "the first one's commit, the others in line")
        server._runner.worker.stop()
        until(lambda: queue.committing_s() > 1.2, "the stop being noticed")
    for thread in asking:
        thread.join()
    assert statuses == [202] * 3
    assert len(events(tmp_path)) == 3


def test_a_request_that_is_coming_in_at_the_stop_is_finished(serve, tmp_path):
    server = serve()
    head = b"POST /events HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
    with server.say(head % len(TAP) + TAP[:5]) as sock:
        until(lambda: server.ask("GET", "/healthz").status == 200, "the half to have come in")
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        sock.sendall(TAP[5:])
        assert sock.recv(100).startswith(b"HTTP/1.1 202")
        stopping.join()
    assert len(events(tmp_path)) == 1


def test_connections_in_keep_alive_do_not_hold_up_a_stop(serve):
    server = serve()
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(server.say(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"))
        begin = time.monotonic()
        server.stop()
        assert time.monotonic() - begin < 5
