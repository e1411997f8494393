"""One POST, one answer: whatever the network does is an answer, and none of them tells secrets."""

import logging
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
import trustme

from agent.delivery.transport import Transport
from agent.emulator import Emulator, Fault
from agent.event import Event, Sender, Stamp, Stream
from agent.ga4.departure import Departing
from agent.ga4.outcome import NoAnswer, Response
from agent.ga4.request import build
from agent.secret import Secret
from agent.urequests import Client

SECRET = "s3cr3t-of-the-stream"
STAMP = Stamp(wall_us=1_800_000_000_000_000, boot_us=1, boot_id="boot", trusted=True)


def request_for(url, *, app=False, text="", stream_secret=SECRET):
    stream = Stream(
        name="main",
        endpoint=url,
        measurement_id=None if app else "G-1",
        firebase_app_id="1:123:android:abc" if app else None,
        secret=Secret(stream_secret),
    )
    sender = Sender(app_instance_id="a" * 32) if app else Sender(client_id="visitor-7.1")
    event = Event(
        name="tap",
        stream="main",
        sender=sender,
        stamp=STAMP,
        event_id="e",
    )
    now_us = STAMP.wall_us
    departing = Departing(event=event, time_us=now_us, happened_us=now_us, params={"text": text})
    return build([departing], stream)


@pytest.fixture
def make_transport():
    made = []

    def make(**settings):
        settings.setdefault("deadline", 5.0)
        made.append(Transport(client=lambda: Client(**settings)))
        return made[-1]

    yield make
    for transport in made:
        transport.close()


@pytest.fixture
def emulator():
    with Emulator() as emulator:
        yield emulator
    assert emulator.bugs == ()


def shown(exchange):
    return f"{exchange!r} {exchange.answer}"


def test_what_ga4_takes_is_a_204_without_a_body(emulator, make_transport):
    exchange = make_transport().post(request_for(emulator.url))
    assert (exchange.answer.status, exchange.answer.empty) == (204, True)
    assert exchange.answer.date.endswith("GMT")
    [received] = emulator.requests()
    assert received.method == "POST"
    assert received.path == "/mp/collect"
    assert received.query == {"measurement_id": "G-1", "api_secret_present": True}
    assert [event["name"] for event in received.events] == ["tap"]


ANSWERS = [
    # fault, status, empty, content type
    (Fault("delay", seconds=0.01), 204, True, ""),
    (Fault("status", status=200), 200, True, ""),
    (Fault("status", status=400), 400, True, ""),
    (Fault("status", status=413), 413, True, ""),
    (Fault("status", status=503), 503, True, ""),
    (Fault("login_page"), 200, False, "text/html; charset=utf-8"),
    (Fault("redirect"), 302, True, ""),
    (Fault("redirect", location="https://portal.example/login"), 302, True, ""),
    (Fault("body"), 200, False, "application/json"),
]


@pytest.mark.parametrize("row", ANSWERS, ids=lambda row: row[0].kind)
def test_an_answer_is_told_as_it_is(emulator, make_transport, row):
    fault, status, empty, content_type = row
    emulator.fail(fault)
    answer = make_transport().post(request_for(emulator.url)).answer
    assert isinstance(answer, Response)
    assert (answer.status, answer.empty, answer.content_type) == (status, empty, content_type)
    assert emulator.attempts == 1


def test_retry_after_is_told(emulator, make_transport):
    emulator.fail(Fault("status", status=429, retry_after="30"))
    assert make_transport().post(request_for(emulator.url)).answer.retry_after == "30"


BROKEN = [
    Fault("hang"),
    Fault("drip", seconds=0.05),
    Fault("cut_before"),
    Fault("cut_half"),
    Fault("cut_after"),
]


@pytest.mark.parametrize("fault", BROKEN, ids=lambda fault: fault.kind)
def test_no_answer_is_an_answer_that_says_that_it_may_have_arrived(emulator, make_transport, fault):
    """Sent once, whatever happens: only the shipper tries again."""
    emulator.fail(fault)
    exchange = make_transport(deadline=0.3).post(request_for(emulator.url))
    assert isinstance(exchange.answer, NoAnswer)
    assert exchange.answer.maybe_sent
    assert not exchange.answer.clock_blocks_tls
    assert exchange.sent > 0
    assert emulator.attempts == 1


@pytest.mark.parametrize("fault", [*BROKEN, *(row[0] for row in ANSWERS)], ids=lambda f: f.kind)
def test_no_answer_and_no_log_line_tells_the_secret_or_an_id(
    emulator, make_transport, fault, caplog
):
    emulator.fail(fault)
    with caplog.at_level(logging.DEBUG):
        exchange = make_transport(deadline=0.3).post(request_for(emulator.url))
    for text in (shown(exchange), caplog.text):
        assert SECRET not in text
        assert "api_secret" not in text
        assert "visitor-7" not in text


def test_a_refused_connection_was_not_sent(make_transport):
    with Emulator() as gone:
        url = gone.url
    exchange = make_transport().post(request_for(url))
    assert isinstance(exchange.answer, NoAnswer)
    assert not exchange.answer.maybe_sent
    assert (exchange.sent, exchange.received) == (0, 0)
    assert "cannot connect to 127.0.0.1" in exchange.answer.reason
    assert "Errno" not in exchange.answer.reason
    assert SECRET not in shown(exchange)


def test_an_unknown_host_was_not_sent(make_transport):
    def resolve(*_args):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    exchange = make_transport(resolve=resolve).post(request_for("http://ga4.invalid"))
    assert isinstance(exchange.answer, NoAnswer)
    assert not exchange.answer.maybe_sent
    assert exchange.sent == 0
    assert "ga4.invalid" in exchange.answer.reason
    assert SECRET not in shown(exchange)


def test_an_endless_answer_is_cut_and_is_no_answer(emulator, make_transport):
    emulator.fail(Fault("login_page"))
    exchange = make_transport(max_body=10).post(request_for(emulator.url))
    assert isinstance(exchange.answer, NoAnswer)
    assert exchange.answer.maybe_sent
    assert SECRET not in shown(exchange)


def test_certificates_that_cannot_be_read_are_an_answer_too(make_transport, tmp_path):
    """A bad ca_file is a fault of the configuration, and no reason to end the process."""
    exchange = make_transport(ca_file=str(tmp_path / "none.pem")).post(
        request_for("https://x.example")
    )
    assert isinstance(exchange.answer, NoAnswer)
    assert not exchange.answer.maybe_sent
    assert "ca_file" in exchange.answer.reason
    assert (exchange.sent, exchange.received) == (0, 0)


def test_after_trouble_the_next_post_gets_through(emulator, make_transport):
    transport = make_transport(deadline=0.3)
    for fault in BROKEN:
        emulator.fail(fault)
        transport.post(request_for(emulator.url))
        emulator.recover()
        assert transport.post(request_for(emulator.url)).answer.status == 204


# TLS


def server_context(ca, *, days):
    """A certificate that is valid from so many days from now, for ten days."""
    begin = datetime.now(UTC) + timedelta(days=days)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert(
        "127.0.0.1", not_before=begin, not_after=begin + timedelta(days=10)
    ).configure_cert(context)
    return context


def post_over_tls(make_transport, tmp_path, *, days, trusted=True):
    """What becomes of a post to an endpoint with such a certificate, and what arrived there."""
    ca = trustme.CA()
    file = tmp_path / "ca.pem"
    (ca if trusted else trustme.CA()).cert_pem.write_to_path(file)
    with Emulator(tls=server_context(ca, days=days)) as emulator:
        transport = make_transport(ca_file=str(file))
        exchange = transport.post(request_for(emulator.url))
        transport.close()
    return exchange, emulator.attempts


def test_a_verified_endpoint_gets_events(make_transport, tmp_path):
    exchange, arrived = post_over_tls(make_transport, tmp_path, days=-5)
    assert (exchange.answer.status, arrived) == (204, 1)


@pytest.mark.parametrize(
    ("days", "trusted", "clock"),
    [(5, True, True), (-50, True, False), (-5, False, False)],
    ids=["of the future", "expired", "of a stranger"],
)
def test_an_endpoint_that_cannot_be_verified_gets_nothing(
    make_transport, tmp_path, days, trusted, clock
):
    exchange, arrived = post_over_tls(make_transport, tmp_path, days=days, trusted=trusted)
    assert isinstance(exchange.answer, NoAnswer)
    assert exchange.answer.clock_blocks_tls == clock
    assert not exchange.answer.maybe_sent
    assert (exchange.sent, arrived) == (0, 0)
    assert SECRET not in shown(exchange)


# What is on the wire


@contextmanager
def wire_tap() -> Iterator[tuple[str, list[bytes]]]:
    """A server that keeps the bytes of one request and answers 204."""
    seen: list[bytes] = []

    def serve():
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(5)
            data = connection.recv(1 << 20)
            head, _, body = data.partition(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            while len(body) < length:
                piece = connection.recv(1 << 20)
                data, body = data + piece, body + piece
            seen.append(data)
            connection.sendall(ANSWER)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", seen
        thread.join()


ANSWER = b"HTTP/1.1 204 No Content\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\nX-Long: abc\r\n\r\n"


@pytest.mark.parametrize("size", [0, 5_000, 100_000])
def test_the_bytes_that_are_counted_are_those_on_the_wire_give_or_take_a_header(
    make_transport, size
):
    with wire_tap() as (url, seen):
        exchange = make_transport().post(request_for(url, text="x" * size))
    assert abs(exchange.sent - len(seen[0])) < 50
    assert abs(exchange.received - len(ANSWER)) < 50


def test_the_colons_of_an_app_id_stay_and_a_secret_is_escaped(make_transport):
    with wire_tap() as (url, seen):
        make_transport().post(request_for(url, app=True, stream_secret="a&b=c d"))
    line = seen[0].split(b"\r\n")[0]
    assert line == (
        b"POST /mp/collect?firebase_app_id=1:123:android:abc&api_secret=a%26b%3Dc+d HTTP/1.1"
    )


def test_the_body_is_sent_as_it_was_built_and_called_json(make_transport):
    with wire_tap() as (url, seen):
        request = request_for(url, text="é\U0001f600")
        make_transport().post(request)
    head, _, body = seen[0].partition(b"\r\n\r\n")
    assert body == request.body
    assert b"content-type: application/json" in head.lower()
    assert b"cookie" not in head.lower()


# Clients


def test_each_thread_has_one_client_of_its_own(emulator):
    made = []

    def new_client():
        made.append(threading.get_ident())
        return Client(deadline=5.0)

    transport = Transport(client=new_client)
    request = request_for(emulator.url)

    def work():
        for _ in range(3):
            assert transport.post(request).answer.status == 204
        transport.close()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert emulator.attempts == 9
    assert len(made) == 3


def test_closing_ends_this_threads_client_and_the_next_post_makes_another(emulator):
    made = []

    def new_client():
        made.append(Client(deadline=5.0))
        return made[-1]

    transport = Transport(client=new_client)
    request = request_for(emulator.url)
    transport.post(request)
    transport.close()
    transport.close()
    assert transport.post(request).answer.status == 204
    assert len(made) == 2
    transport.close()
