"""agent.urequests against real servers on loopback: MicroPython's API and the listed differences."""

import errno
import logging
import socket
import ssl
import threading
import time
import traceback
from base64 import b64encode
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
import trustme

from agent import urequests
from agent.urequests import (
    BrokenError,
    Client,
    ConnectError,
    DeadlineError,
    DnsError,
    ProxyError,
    RequestError,
    TlsError,
)

SECRET = "s3cr3tValue"
PATH = f"/mp/collect?measurement_id=G-1&api_secret={SECRET}"
NO_CONTENT = b"HTTP/1.1 204 No Content\r\n\r\n"
METHODS = ["head", "get", "post", "put", "patch", "delete"]
SHORT = 0.2  # seconds: the deadline of requests that must run into it
SOON = 1.5  # seconds: what such a request may take on a busy machine


def answer(body, *, status="200 OK", headers=()):
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def read_request(conn):
    """Return one request, head and body, or nothing when the client is gone."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = conn.recv(65536)
        if not more:
            return b""
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            while len(body) < int(line.split(b":")[1]):
                body += conn.recv(65536)
    chunked = b"transfer-encoding: chunked" in head.lower()
    while chunked and not body.endswith(b"0\r\n\r\n"):
        body += conn.recv(65536)
    return head + b"\r\n\r\n" + body


def replying(*replies):
    """Answer the requests of all connections with these, the last one again and again."""
    left = list(replies)

    def handle(conn, server):
        while request := read_request(conn):
            server.seen.append(request)
            conn.sendall(left.pop(0) if len(left) > 1 else left[0])

    return handle


def cutting(reply):
    """Read one request, send these bytes, hang up."""

    def handle(conn, server):
        server.seen.append(read_request(conn))
        conn.sendall(reply)

    return handle


def dripping(start, drop):
    """Answer one request with ``start`` and then ``drop`` each 0.02 s until the client hangs up."""

    def handle(conn, server):
        server.seen.append(read_request(conn))
        conn.sendall(start)
        while not server.done.wait(0.02):
            try:
                conn.sendall(drop)
            except OSError:
                server.hung_up.set()
                raise

    return handle


def silent(conn, server):
    """Take the connection and say nothing."""
    server.done.wait()


def _handle(conn, server, handle, tls):
    with suppress(OSError, ssl.SSLError), ExitStack() as stack:
        stack.callback(server.closed.set)
        stack.callback(conn.close)
        if tls is not None:
            conn = stack.enter_context(tls.wrap_socket(conn, server_side=True))
        handle(conn, server)


def _accept(listener, server, handle, tls):
    with suppress(OSError):
        while True:
            conn, _ = listener.accept()
            server.accepted.append(conn)
            thread = threading.Thread(target=_handle, args=(conn, server, handle, tls))
            server.threads.append(thread)
            thread.start()


@contextmanager
def serving(handle, *, tls=None):
    """A server that gives each connection to ``handle(conn, server)`` in a thread of its own."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    scheme = "http" if tls is None else "https"
    server = SimpleNamespace(
        port=port,
        url=f"{scheme}://localhost:{port}{PATH}",
        seen=[],
        accepted=[],
        threads=[],
        done=threading.Event(),
        closed=threading.Event(),
        hung_up=threading.Event(),
    )
    acceptor = threading.Thread(target=_accept, args=(listener, server, handle, tls))
    acceptor.start()
    try:
        yield server
    finally:
        server.done.set()
        listener.shutdown(socket.SHUT_RDWR)
        acceptor.join()
        listener.close()
        for conn in server.accepted:
            with suppress(OSError):
                conn.shutdown(socket.SHUT_RDWR)
        for thread in server.threads:
            thread.join()


@pytest.fixture
def serve():
    with ExitStack() as stack:
        yield lambda handle, **kw: stack.enter_context(serving(handle, **kw))


@pytest.fixture
def make_client(ca_file):
    """Make Clients that trust the test's CA, unless told otherwise."""
    usual = {"resolve": loopback, "ca_file": ca_file}
    with ExitStack() as stack:
        yield lambda **kw: stack.enter_context(Client(**usual | kw))


@pytest.fixture
def client(make_client):
    return make_client()


@pytest.fixture(scope="module")
def ca():
    return trustme.CA()


@pytest.fixture(scope="module")
def ca_file(ca, tmp_path_factory):
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    ca.cert_pem.write_to_path(path)
    return str(path)


@pytest.fixture(scope="module")
def foreign_file(tmp_path_factory):
    """Another CA, which signed nothing here."""
    path = tmp_path_factory.mktemp("foreign") / "ca.pem"
    trustme.CA().cert_pem.write_to_path(path)
    return str(path)


@pytest.fixture
def tls(ca):
    return server_context(ca)


def server_context(ca, name="localhost", **kw):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert(name, **kw).configure_cert(context)
    return context


def loopback(host, port, *_):
    """Resolve every name to 127.0.0.1, whatever this machine's resolver thinks of localhost."""
    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]


@pytest.fixture
def closed_port():
    """A port on which nothing listens and that nobody else is given meanwhile."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


@pytest.fixture
def blackhole():
    """An address that takes no further connection and refuses none: its backlog is full."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        while True:
            filler = stack.enter_context(socket.socket())
            filler.settimeout(0.1)
            try:
                filler.connect(listener.getsockname())
            except TimeoutError:
                break
        yield listener.getsockname()


def family_of(error):
    """The error and everything that is chained to it."""
    found, todo = [], [error]
    while todo:
        item = todo.pop()
        if item is not None and item not in found:
            found.append(item)
            todo += [item.__cause__, item.__context__]
    return found


def failure(kind, call, *args, **kw):
    """Return the error of exactly this class, after checking that it tells no secret."""
    with pytest.raises(kind) as caught:
        call(*args, **kw)
    error = caught.value
    assert type(error) is kind
    texts = [str(item) + repr(item) + repr(vars(item)) for item in family_of(error)]
    texts += traceback.format_exception(error)
    assert not [text for text in texts if SECRET in text]
    return error


def header_of(request, name):
    lines = request.partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]
    return [value for key, _, value in (line.partition(": ") for line in lines) if key == name]


def body_of(request):
    return request.partition(b"\r\n\r\n")[2]


# MicroPython's API


@pytest.mark.parametrize("name", METHODS)
def test_each_short_name_sends_its_method(serve, client, name):
    server = serve(replying(NO_CONTENT))
    for owner in (client, urequests):
        with getattr(owner, name)(server.url.replace("localhost", "127.0.0.1")) as response:
            assert response.status_code == 204
    line = f"{name.upper()} {PATH} HTTP/1.1".encode()
    assert [request.split(b"\r\n")[0] for request in server.seen] == [line, line]
    urequests._client().close()


def test_json_is_sent_as_python_writes_it_with_its_content_type(serve, client):
    server = serve(replying(NO_CONTENT))
    client.post(server.url, json={"a": [1, "ä"]})
    client.post(server.url, json={}, headers={"content-type": "text/plain"})
    assert body_of(server.seen[0]) == b'{"a": [1, "\\u00e4"]}'
    assert header_of(server.seen[0], "Content-Type") == ["application/json"]
    assert body_of(server.seen[1]) == b"{}"
    assert header_of(server.seen[1], "content-type") == ["text/plain"]
    assert header_of(server.seen[1], "Content-Type") == []


@pytest.mark.parametrize("data", ["grün", "grün".encode(), bytearray("grün".encode())])
def test_data_is_sent_as_it_is(serve, client, data):
    server = serve(replying(NO_CONTENT))
    client.put(server.url, data=data)
    assert body_of(server.seen[0]) == "grün".encode()
    assert header_of(server.seen[0], "Content-Length") == ["5"]
    assert header_of(server.seen[0], "Content-Type") == []


def test_data_from_a_generator_is_sent_in_chunks(serve, client):
    server = serve(replying(NO_CONTENT))
    client.post(server.url, data=iter([b"one", b"three"]))
    assert body_of(server.seen[0]) == b"3\r\none\r\n5\r\nthree\r\n0\r\n\r\n"
    assert header_of(server.seen[0], "Transfer-Encoding") == ["chunked"]


def test_only_these_headers_are_added_and_those_of_the_caller_stay(serve, client):
    server = serve(replying(NO_CONTENT))
    client.get(server.url, headers={"x-odd-Case": "1", "Host": "example.org"})
    head = server.seen[0].decode().split("\r\n")[1:-2]
    assert sorted(head) == sorted(
        ["Accept-Encoding: identity", "x-odd-Case: 1", "Host: example.org"]
    )


def test_a_user_agent_is_sent_if_one_is_given(serve, make_client):
    server = serve(replying(NO_CONTENT))
    make_client(user_agent="kiosk/1").get(server.url)
    assert header_of(server.seen[0], "User-Agent") == ["kiosk/1"]


def test_auth_is_basic_authentication_in_utf8(serve, client):
    server = serve(replying(NO_CONTENT))
    client.get(server.url, auth=("jürgen", "p:w"))
    expected = "Basic " + b64encode("jürgen:p:w".encode()).decode()
    assert header_of(server.seen[0], "Authorization") == [expected]


def test_a_response_has_micropythons_attributes(serve, client):
    server = serve(replying(answer(b'{"n": 1}', status="201 Made so", headers=["X-Y: z"])))
    response = client.post(server.url, data=b"x")
    assert (response.status_code, response.reason) == (201, b"Made so")
    assert (response.encoding, type(response.headers)) == ("utf-8", dict)
    assert response.headers == {"Content-Length": "8", "X-Y": "z"}
    assert response.raw is not None
    assert response.content == b'{"n": 1}'
    assert response.raw is None
    assert (response.text, response.json()) == ('{"n": 1}', {"n": 1})
    response.close()
    assert response.content is response.content


def test_encoding_decides_how_text_is_read(serve, client):
    server = serve(replying(answer(b"\xe4")))
    response = client.get(server.url)
    response.encoding = "latin-1"
    assert response.text == "ä"


def test_an_answer_without_a_reason_has_an_empty_one(serve, client):
    server = serve(replying(b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n"))
    assert client.get(server.url).reason == b""


def test_raw_is_a_stream(serve, client):
    server = serve(replying(answer(b"0123456789")))
    with client.get(server.url, stream=True) as response:
        assert [response.raw.read(4), response.raw.read(4), response.raw.read()] == [
            b"0123",
            b"4567",
            b"89",
        ]


def test_headers_are_none_without_parse_headers(serve, client):
    server = serve(replying(NO_CONTENT))
    assert client.get(server.url, parse_headers=False).headers is None


def test_a_closed_response_has_no_body_to_read(serve, client):
    server = serve(replying(answer(b"lost")))
    response = client.get(server.url)
    raw = response.raw
    response.close()
    with pytest.raises(ValueError, match="closed response"):
        _ = response.content
    with pytest.raises(ValueError, match="closed"):
        raw.read(1)


@pytest.mark.parametrize("name", METHODS)
def test_an_unknown_argument_is_a_type_error(client, name):
    for owner in (client, urequests):
        failure(TypeError, getattr(owner, name), "http://127.0.0.1/", verify=False)


def test_data_and_json_together_are_a_type_error(client):
    failure(TypeError, client.post, "http://127.0.0.1/", data=b"", json=1)


@pytest.mark.parametrize(
    ("url", "protocol"), [("ftp://h/", "ftp:"), (f"x?api_secret={SECRET}", ":")]
)
def test_other_schemes_are_value_errors(client, url, protocol):
    assert str(failure(ValueError, client.get, url)) == f"Unsupported protocol: {protocol}"


@pytest.mark.parametrize("host", ["", "[::1", "h:99999", "h:port", "ä" * 80, ".h", "*"])
def test_a_malformed_url_is_a_value_error_that_does_not_show_it(client, host):
    error = failure(ValueError, client.get, f"http://{host}{PATH}")
    assert "cannot use the URL" in str(error)


@pytest.mark.parametrize(
    "headers", [{"X": f"a\r\n{SECRET}"}, {f"X\n{SECRET}": "a"}, {"X": len(SECRET)}]
)
def test_a_bad_header_is_a_value_error_that_does_not_show_it(client, headers):
    error = failure(ValueError, client.get, "http://127.0.0.1/", headers=headers)
    assert "cannot send the headers" in str(error)


def test_json_that_json_does_not_know_is_a_value_error(client):
    failure(ValueError, client.post, "http://127.0.0.1/", json=float("nan"))


def test_module_functions_use_one_connection_per_thread(serve):
    server = serve(replying(NO_CONTENT))
    url = server.url.replace("localhost", "127.0.0.1")

    def twice():
        urequests.post(url)
        urequests.post(url)
        urequests._client().close()

    for thread in [threading.Thread(target=twice), threading.Thread(target=twice)]:
        thread.start()
        thread.join()
    assert (len(server.seen), len(server.accepted)) == (4, 2)


# Difference 1: certificates are always verified


def test_a_certificate_of_the_given_ca_is_trusted(serve, make_client, tls):
    server = serve(replying(NO_CONTENT), tls=tls)
    assert make_client().post(server.url).status_code == 204


def test_the_systems_store_is_trusted_if_there_is_one(
    serve, make_client, tls, ca_file, monkeypatch
):
    server = serve(replying(NO_CONTENT), tls=tls)
    monkeypatch.setattr(urequests, "SYSTEM_STORE", ca_file)
    assert make_client(ca_file=None).post(server.url).status_code == 204


def test_without_a_systems_store_certifi_is_trusted(serve, make_client, tls, tmp_path, monkeypatch):
    server = serve(replying(NO_CONTENT), tls=tls)
    monkeypatch.setattr(urequests, "SYSTEM_STORE", str(tmp_path / "none.pem"))
    client = make_client(ca_file=None)
    roots = client._session.get_adapter("https://h/")._tls.cert_store_stats()["x509_ca"]
    assert roots > 50
    failure(TlsError, client.post, server.url)


def test_ca_file_replaces_the_systems_store(  # noqa: PLR0917 # pytest names fixtures so
    serve, make_client, tls, ca_file, foreign_file, monkeypatch
):
    monkeypatch.setattr(urequests, "SYSTEM_STORE", ca_file)
    server = serve(replying(NO_CONTENT), tls=tls)
    error = failure(TlsError, make_client(ca_file=foreign_file).post, server.url)
    assert "issuer" in error.reason or "self-signed" in error.reason
    assert (error.not_yet_valid, error.maybe_sent, server.seen) == (False, False, [])


@pytest.mark.parametrize(
    ("days", "reason"),
    [((1, 9), "certificate is not yet valid"), ((-9, -1), "certificate has expired")],
)
def test_a_certificate_counts_only_between_its_dates(serve, make_client, ca, days, reason):
    start, end = (datetime.now(UTC) + timedelta(days=day) for day in days)
    server = serve(replying(NO_CONTENT), tls=server_context(ca, not_before=start, not_after=end))
    error = failure(TlsError, make_client().post, server.url)
    assert (error.reason, error.not_yet_valid) == (reason, start > datetime.now(UTC))
    assert (error.maybe_sent, reason in str(error), server.seen) == (False, True, [])


@pytest.mark.parametrize("name", ["other.example", "127.0.0.1"])
def test_a_certificate_for_another_host_is_refused(serve, make_client, ca, name):
    server = serve(replying(NO_CONTENT), tls=server_context(ca, name))
    error = failure(TlsError, make_client().post, server.url)
    assert "mismatch" in error.reason.lower()
    assert "localhost" in str(error)


def test_the_host_name_is_verified_and_not_the_address(serve, make_client, ca):
    server = serve(replying(NO_CONTENT), tls=server_context(ca, "ga4.example"))
    client = make_client()
    assert client.post(f"https://ga4.example:{server.port}{PATH}").status_code == 204


@pytest.mark.parametrize("reply", [b"", b"HTTP/1.1 400 Bad\r\n\r\n"])
def test_a_server_without_tls_is_a_tls_error(serve, client, reply):
    def plain(conn, server):
        conn.recv(65536)
        conn.sendall(reply)

    server = serve(plain)
    error = failure(TlsError, client.post, server.url.replace("http:", "https:"))
    assert (error.not_yet_valid, error.maybe_sent) == (False, False)
    assert error.reason


# Difference 2: redirects


def redirect(status, location):
    return answer(b"login", status=f"{status} Moved", headers=[f"Location: {location}"])


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_a_redirect_of_what_changes_something_is_the_answer(serve, client, method, status):
    server = serve(replying(redirect(status, "/login"), answer(b"page")))
    with client.request(method, server.url, data=b"x") as response:
        assert (response.status_code, response.content) == (status, b"login")
    assert len(server.seen) == 1


@pytest.mark.parametrize("location", ["http://[bad", "http://:0x", "/x"])
def test_a_post_does_not_look_at_the_location(serve, client, location):
    server = serve(replying(redirect(302, location)))
    with client.post(server.url, data=b"x") as response:
        assert response.headers["Location"] == location
    assert len(server.seen) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_redirect_of_get_and_head_is_followed(serve, client, method, status):
    first = f"HTTP/1.1 {status} Moved\r\nLocation: ../näxt?a=b\r\nContent-Length: 0\r\n\r\n"
    server = serve(replying(first.encode(), NO_CONTENT))
    assert client.request(method, server.url).status_code == 204
    assert server.seen[1].startswith(f"{method} /n%C3%A4xt?a=b HTTP/1.1\r\n".encode())


def test_a_get_with_a_body_is_not_followed(serve, client):
    server = serve(replying(redirect(307, "/x"), NO_CONTENT))
    with client.get(server.url, data=b"x") as response:
        assert response.status_code == 307


@pytest.mark.parametrize("location", ["ftp://h/", "http://[bad", "file:///etc/passwd"])
def test_a_redirect_that_cannot_be_followed_is_the_answer(serve, client, location):
    server = serve(replying(redirect(302, location)))
    with client.get(server.url) as response:
        assert response.status_code == 302


def test_five_redirects_are_followed_and_not_six(serve, client):
    enough = serve(replying(*[redirect(302, "/x")] * 5, NO_CONTENT))
    assert client.get(enough.url).status_code == 204
    server = serve(replying(redirect(302, "/x")))
    error = failure(RequestError, client.get, server.url)
    assert (error.errno, error.maybe_sent, len(server.seen)) == (errno.ELOOP, True, 6)


def test_a_redirect_to_another_server_does_not_tell_it_the_password(serve, client):
    other = serve(replying(NO_CONTENT))
    first = serve(replying(redirect(302, f"http://localhost:{other.port}/")))
    client.get(first.url, auth=("user", SECRET), headers={"Host": "first.example"})
    assert header_of(first.seen[0], "Authorization")
    assert header_of(other.seen[0], "Authorization") == []
    assert header_of(other.seen[0], "Host") == [f"localhost:{other.port}"]


def test_a_redirect_does_not_lead_out_of_tls(serve, make_client, tls):
    server = serve(replying(redirect(302, "http://localhost/")), tls=tls)
    with make_client().get(server.url) as response:
        assert response.status_code == 302


def test_the_deadline_holds_for_all_redirects_together(serve, client):
    def slow(conn, server):
        while request := read_request(conn):
            server.seen.append(request)
            server.done.wait(SHORT / 2)
            conn.sendall(redirect(302, "/x"))

    server = serve(slow)
    error = failure(DeadlineError, client.get, server.url, timeout=SHORT)
    assert error.maybe_sent
    assert len(server.seen) <= 3


# Difference 3: timeout is a total deadline that closes the socket


@contextmanager
def within(least, most):
    start = time.monotonic()
    yield
    assert least <= time.monotonic() - start < most


def late(call, *args, maybe_sent, **kw):
    """Run into the deadline on time and say so."""
    with within(SHORT * 0.9, SOON):
        error = failure(DeadlineError, call, *args, timeout=SHORT, **kw)
    assert (error.errno, error.maybe_sent) == (errno.ETIMEDOUT, maybe_sent)
    assert isinstance(error, TimeoutError)
    assert f"{SHORT:g} s" in str(error)


@pytest.mark.parametrize(
    ("start", "drop"),
    [
        (b"", b"H"),
        (b"HTTP/1.1 200 OK\r\nX: ", b"x"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    ],
)
def test_a_server_that_drips_headers_is_cut_off(serve, client, start, drop):
    server = serve(dripping(start, drop))
    late(client.post, server.url, data=b"x", maybe_sent=True)
    assert server.hung_up.wait(SOON)


@pytest.mark.parametrize(
    ("head", "drop"),
    [
        ("Content-Length: 1000", b"x"),
        ("Transfer-Encoding: chunked", b"1\r\nx\r\n"),
        ("Connection: close", b"x"),
    ],
)
def test_a_server_that_drips_the_body_is_cut_off(serve, client, head, drop):
    server = serve(dripping(f"HTTP/1.1 200 OK\r\n{head}\r\n\r\n".encode(), drop))

    def call(url, **kw):
        return client.get(url, stream=True, **kw).content

    late(call, server.url, maybe_sent=True)
    assert server.hung_up.wait(SOON)


def test_a_drip_over_tls_is_cut_off(serve, make_client, tls):
    server = serve(dripping(b"HTTP/1.1 200 OK\r\n\r\n", b"x"), tls=tls)
    client = make_client()
    late(lambda url, **kw: client.get(url, **kw).content, server.url, maybe_sent=True)
    assert server.hung_up.wait(SOON)


def test_the_deadline_of_a_reused_connection_is_that_of_its_request(serve, make_client, tls):
    def once(conn, server):
        conn.sendall(NO_CONTENT if read_request(conn) else b"")
        dripping(b"", b"H")(conn, server)

    for server in (serve(once), serve(once, tls=tls)):
        client = make_client()
        client.post(server.url, timeout=60)
        late(client.post, server.url, maybe_sent=True)
        assert len(server.accepted) == 1


@pytest.mark.parametrize("secure", [False, True])
def test_a_server_that_does_not_read_is_cut_off(serve, make_client, tls, secure):
    def once(conn, server):
        read_request(conn)
        conn.sendall(NO_CONTENT)
        server.done.wait()

    server = serve(once, tls=tls if secure else None)
    client = make_client()
    client.post(server.url)
    late(client.post, server.url, data=b"x" * 30_000_000, maybe_sent=True)
    assert len(server.accepted) == 1


def test_a_silent_tls_handshake_is_cut_off(serve, client):
    server = serve(silent)
    late(client.post, server.url.replace("http:", "https:"), maybe_sent=False)


def test_a_dripping_tls_handshake_is_cut_off(serve, client):
    def handle(conn, server):  # a handshake record that grows for ever; it has no request to read
        conn.recv(65536)
        conn.sendall(b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc")
        while not server.done.wait(0.02):
            conn.sendall(b"\x00")

    server = serve(handle)
    late(client.post, server.url.replace("http:", "https:"), maybe_sent=False)


def test_connecting_counts_towards_the_deadline(make_client, blackhole):
    client = make_client(resolve=to(blackhole, blackhole), connect_timeout=60)
    late(client.post, f"http://ga4.example{PATH}", maybe_sent=False)


def test_finding_the_address_counts_towards_the_deadline(make_client, hanging):
    client = make_client(resolve=hanging, dns_timeout=60)
    late(client.post, f"http://ga4.example{PATH}", maybe_sent=False)


def test_the_clients_deadline_holds_where_the_request_has_none(serve, make_client):
    server = serve(silent)
    with within(SHORT * 0.9, SOON):
        failure(DeadlineError, make_client(deadline=SHORT).post, server.url)


def test_no_time_at_all_is_a_deadline_error(client):
    error = failure(DeadlineError, client.post, f"http://127.0.0.1{PATH}", timeout=0)
    assert not error.maybe_sent


# Difference 4: the environment is not trusted


@pytest.fixture
def hostile_environment(closed_port, foreign_file, tmp_path, monkeypatch):
    """Variables that would lead requests astray: a dead proxy, a foreign CA, a password."""
    (tmp_path / "netrc").write_text("default login user password word\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{closed_port}")
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.setenv(name, foreign_file)


@pytest.mark.usefixtures("hostile_environment")
def test_nothing_is_taken_from_the_environment(serve, make_client, tls):
    client = make_client()
    for server in (serve(replying(NO_CONTENT)), serve(replying(NO_CONTENT), tls=tls)):
        assert client.post(server.url).status_code == 204
        assert header_of(server.seen[0], "Authorization") == []


def test_cookies_are_not_kept(serve, client):
    server = serve(replying(answer(b"", headers=["Set-Cookie: id=1; Path=/"])))
    client.get(server.url)
    client.get(server.url)
    assert header_of(server.seen[1], "Cookie") == []


# Difference 5: keep-alive, and never the same request twice


@pytest.mark.parametrize("reply", [NO_CONTENT, answer(b""), answer(b"read")])
def test_connections_are_kept_alive(serve, client, reply):
    server = serve(replying(reply))
    for _ in range(3):
        client.post(server.url, data=b"x").content  # noqa: B018 # reading sets the connection free
    assert (len(server.seen), len(server.accepted)) == (3, 1)


def test_an_answer_without_a_body_needs_no_reading_to_free_its_connection(serve, client):
    server = serve(replying(NO_CONTENT))
    for _ in range(3):
        client.post(server.url)
    assert (len(server.seen), len(server.accepted)) == (3, 1)


def test_tls_connections_are_kept_alive(serve, make_client, tls):
    server = serve(replying(NO_CONTENT), tls=tls)
    client = make_client()
    for _ in range(3):
        client.post(server.url)
    assert (len(server.seen), len(server.accepted)) == (3, 1)


@pytest.mark.parametrize("secure", [False, True])
def test_an_idle_connection_that_the_server_closed_is_replaced(serve, make_client, tls, secure):
    server = serve(cutting(NO_CONTENT), tls=tls if secure else None)
    client = make_client()
    for _ in range(3):
        assert client.post(server.url, data=b"x").status_code == 204
        assert server.closed.wait(SOON)
        server.closed.clear()
    assert (len(server.seen), len(server.accepted)) == (3, 3)


@pytest.mark.parametrize("start", [b"", b"HTTP/1.1 200 OK\r\nContent-Le"])
@pytest.mark.parametrize("method", ["GET", "POST", "PUT"])
def test_a_request_that_was_cut_is_not_sent_again(serve, client, method, start):
    server = serve(cutting(start))
    error = failure(BrokenError, client.request, method, server.url)
    assert error.maybe_sent
    assert len(server.seen) == 1


def test_a_request_cut_on_a_reused_connection_is_not_sent_again(serve, client):
    def second(conn, server):
        server.seen.append(read_request(conn))
        conn.sendall(NO_CONTENT)
        server.seen.append(read_request(conn))

    server = serve(second)
    client.post(server.url)
    error = failure(BrokenError, client.post, server.url)
    assert (error.errno, error.maybe_sent) == (errno.ECONNRESET, True)
    assert len(server.seen) == 2


def test_an_open_response_keeps_its_connection_and_its_deadline(serve, client):
    server = serve(replying(answer(b"first"), answer(b"second")))
    with client.get(server.url) as first:
        with client.get(server.url, timeout=60) as second:
            assert second.content == b"second"
        assert first.content == b"first"
    assert len(server.accepted) == 2


# Differences 6 and 7: with, and max_body


def test_with_closes_a_response_that_nobody_read(serve, client):
    server = serve(dripping(b"HTTP/1.1 200 OK\r\n\r\n", b"x"))
    with client.get(server.url) as response:
        assert response.raw is not None
    assert response.raw is None
    assert server.hung_up.wait(SOON)


@pytest.mark.parametrize("framing", ["Content-Length: {}", "Connection: close"])
def test_a_body_of_max_body_is_read_and_one_byte_more_is_not(serve, make_client, framing):
    def reply(size):
        return f"HTTP/1.1 200 OK\r\n{framing.format(size)}\r\n\r\n".encode() + b"x" * size

    client = make_client(max_body=20_000)
    assert len(client.get(serve(cutting(reply(20_000))).url).content) == 20_000
    response = client.get(serve(cutting(reply(20_001))).url)
    error = failure(RequestError, lambda: response.content)
    assert (error.errno, error.maybe_sent) == (errno.EMSGSIZE, True)
    assert "20000 bytes" in str(error)


def test_max_body_is_one_mebibyte_unless_given(serve, client):
    server = serve(cutting(answer(b"x" * (1 << 20))))
    assert len(client.get(server.url).content) == 1 << 20
    response = client.get(serve(cutting(answer(b"x" * ((1 << 20) + 1)))).url)
    assert failure(RequestError, lambda: response.content).errno == errno.EMSGSIZE


def test_a_compressed_body_is_not_unpacked(serve, client):
    server = serve(replying(answer(b"\x1f\x8b not gzip", headers=["Content-Encoding: gzip"])))
    assert client.get(server.url).content == b"\x1f\x8b not gzip"


# Addresses


def to(*addresses):
    """Resolve every name to these addresses."""
    return lambda *_: [(socket.AF_INET, socket.SOCK_STREAM, 6, "", item) for item in addresses]


@pytest.fixture
def hanging():
    """A resolver that hangs until the test is over, and counts."""
    done, calls = threading.Event(), []

    def resolve(host, port, *_):
        calls.append((host, port))
        done.wait()
        return []

    resolve.calls = calls
    resolve.done = done
    yield resolve
    done.set()


def test_a_blackholed_address_does_not_hide_a_working_one(serve, make_client, blackhole):
    server = serve(replying(NO_CONTENT))
    resolve = to(blackhole, ("127.0.0.1", server.port))
    client = make_client(resolve=resolve, connect_timeout=SHORT)
    with within(SHORT * 0.9, SOON):
        assert client.post(f"http://ga4.example{PATH}").status_code == 204


def test_an_address_that_does_not_answer_is_given_connect_timeout(make_client, blackhole):
    client = make_client(resolve=to(blackhole), connect_timeout=SHORT)
    with within(SHORT * 0.9, SOON):
        error = failure(ConnectError, client.post, f"http://ga4.example{PATH}")
    assert (error.errno, error.maybe_sent) == (errno.ETIMEDOUT, False)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_refused_connection_is_a_connect_error(client, closed_port, scheme):
    error = failure(ConnectError, client.post, f"{scheme}://localhost:{closed_port}{PATH}")
    assert (error.errno, error.maybe_sent) == (errno.ECONNREFUSED, False)
    assert f"localhost port {closed_port}" in str(error)


def test_an_unknown_name_is_a_dns_error(make_client):
    def resolve(*_):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    error = failure(DnsError, make_client(resolve=resolve).post, f"http://ga4.example{PATH}")
    assert (error.errno, error.maybe_sent) == (socket.EAI_NONAME, False)
    assert "ga4.example" in str(error)


def test_a_reset_before_the_connection_stands_is_not_taken_for_a_cut_answer(make_client):
    """The code urllib3 forgives while a request is being sent, in the hope of an answer."""

    def resolve(*_):
        raise ConnectionResetError(errno.ECONNRESET, "reset by the name server")

    error = failure(DnsError, make_client(resolve=resolve).post, f"http://ga4.example{PATH}")
    assert (error.errno, error.maybe_sent) == (errno.ECONNRESET, False)


def test_a_name_without_addresses_is_a_dns_error(make_client):
    failure(DnsError, make_client(resolve=to()).post, f"http://ga4.example{PATH}")


def test_a_name_that_cannot_be_asked_for_is_a_dns_error(make_client):
    client = make_client(resolve=socket.getaddrinfo)
    failure(DnsError, client.post, f"http://{'a' * 64}.invalid{PATH}")


def test_a_bug_in_resolve_is_no_network_trouble(make_client):
    with pytest.raises(ZeroDivisionError):
        make_client(resolve=lambda *_: 1 / 0).post("http://ga4.example/")


def test_a_hanging_name_server_is_a_dns_error_and_hangs_one_thread_only(make_client, hanging):
    client = make_client(resolve=hanging, dns_timeout=SHORT / 2)
    before = threading.active_count()
    for _ in range(3):
        with within(SHORT / 2 * 0.9, SOON):
            error = failure(DnsError, client.post, f"http://ga4.example{PATH}")
        assert (error.errno, error.maybe_sent) == (socket.EAI_AGAIN, False)
    assert hanging.calls == [("ga4.example", 80)]
    assert threading.active_count() == before + 1


def test_after_a_lookup_that_hung_the_name_is_asked_for_again(serve, make_client):
    server = serve(replying(NO_CONTENT))
    gate, over = threading.Event(), threading.Event()

    def resolve(host, port, *_):
        if not gate.is_set():
            gate.wait()
            over.set()
            raise socket.gaierror(socket.EAI_AGAIN, "too late")
        return loopback(host, port)

    client = make_client(resolve=resolve, dns_timeout=SHORT / 2)
    failure(DnsError, client.post, server.url)
    (lookup,) = client._wire._pending.values()
    gate.set()
    lookup.join()
    assert over.is_set()
    assert client.post(server.url).status_code == 204


def test_an_ipv6_address_in_the_url_is_asked_for_without_brackets(make_client):
    asked = []

    def resolve(host, port, *_):
        asked.append((host, port))
        return []

    failure(DnsError, make_client(resolve=resolve).post, f"http://[::1]:8787{PATH}")
    assert asked == [("::1", 8787)]


# Broken answers


def test_a_reset_is_a_broken_error_with_its_errno(serve, client):
    def reset(conn, server):
        server.seen.append(read_request(conn))
        conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    error = failure(BrokenError, client.post, serve(reset).url, data=b"x")
    assert (error.errno, error.maybe_sent) == (errno.ECONNRESET, True)


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nshort",
    ],
)
def test_a_body_that_breaks_off_is_a_broken_error(serve, client, reply):
    response = client.post(serve(cutting(reply)).url)
    error = failure(BrokenError, lambda: response.content)
    assert (error.errno, error.maybe_sent) == (errno.ECONNRESET, True)
    assert response.raw is None


def test_an_answer_sent_before_the_body_was_read_is_an_answer(serve, client):
    def refuse(conn, server):
        conn.recv(1000)
        conn.sendall(answer(b"", status="413 Too Large", headers=["Connection: close"]))
        conn.shutdown(socket.SHUT_WR)
        while conn.recv(1 << 20):
            pass

    assert client.post(serve(refuse).url, data=b"x" * 3_000_000).status_code == 413


def echoing(conn, server):
    conn.sendall(read_request(conn))


def test_what_is_not_http_is_a_broken_error_and_its_echo_stays_secret(serve, client):
    error = failure(BrokenError, client.post, serve(echoing).url)
    assert (error.errno, error.maybe_sent) == (errno.EPROTO, True)
    assert "not HTTP" in str(error)


@pytest.mark.parametrize(
    "head",
    ["Content-Length: 1\r\nContent-Length: 2", "\r\n".join(["A: b"] * 200), "A: " + "b" * 70000],
)
def test_unusable_headers_are_a_broken_error(serve, client, head):
    server = serve(cutting(f"HTTP/1.1 200 OK\r\n{head}\r\n\r\n".encode()))
    assert failure(BrokenError, client.post, server.url).errno == errno.EPROTO


def test_nothing_secret_is_logged_at_any_level(serve, client, caplog):
    caplog.set_level(logging.DEBUG)
    malformed = b"HTTP/1.1 200 OK\r\nno colon here\r\nContent-Length: 0\r\n\r\n"
    client.post(serve(replying(NO_CONTENT)).url)
    client.post(serve(cutting(malformed)).url).close()
    failure(BrokenError, client.post, serve(echoing).url)
    assert SECRET not in caplog.text


def test_an_error_met_while_handling_another_does_not_take_its_class(serve, client):
    """What the caller is handling is Python's context of ours, and must not be read as our cause."""
    server = serve(cutting(b""))
    try:
        int("x")
    except ValueError:
        failure(BrokenError, client.post, server.url)


# Proxies


def tunnel(conn, server):
    """A proxy that connects to loopback, whatever host it is asked for."""
    server.seen.append(read_request(conn))
    port = int(server.seen[-1].split()[1].split(b":")[1])
    with socket.create_connection(("127.0.0.1", port)) as out:
        conn.sendall(b"HTTP/1.1 200 Connected\r\n\r\n")
        back = threading.Thread(target=pump, args=(out, conn))
        back.start()
        pump(conn, out)
        back.join()


def pump(source, sink):
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_RDWR)


def through(port, user="user:word@"):
    return f"http://{user}localhost:{port}"


def test_http_goes_through_the_proxy_with_the_whole_url(serve, make_client):
    proxy = serve(replying(NO_CONTENT))
    client = make_client(proxy=through(proxy.port))
    for _ in range(2):
        assert client.post(f"http://ga4.example{PATH}").status_code == 204
    assert proxy.seen[0].startswith(f"POST http://ga4.example{PATH} HTTP/1.1".encode())
    assert header_of(proxy.seen[0], "Proxy-Authorization") == ["Basic dXNlcjp3b3Jk"]
    assert len(proxy.accepted) == 1


def test_https_goes_through_a_tunnel_that_sees_no_url(serve, make_client, ca):
    proxy = serve(tunnel)
    server = serve(replying(NO_CONTENT), tls=server_context(ca, "ga4.example"))
    client = make_client(proxy=through(proxy.port))
    for _ in range(2):
        assert client.post(f"https://ga4.example:{server.port}{PATH}").status_code == 204
    assert (len(server.seen), len(proxy.seen)) == (2, 1)
    assert header_of(proxy.seen[0], "Proxy-Authorization") == ["Basic dXNlcjp3b3Jk"]
    assert SECRET.encode() not in proxy.seen[0]
    assert header_of(server.seen[0], "Proxy-Authorization") == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_plain_http_to_this_machine_never_goes_through_a_proxy(serve, make_client, host):
    """It would carry what should not leave the machine, and answer in its place."""
    proxy, server = serve(replying(NO_CONTENT)), serve(replying(NO_CONTENT))
    client = make_client(proxy=through(proxy.port))
    assert client.post(f"http://{host}:{server.port}{PATH}").status_code == 204
    assert server.seen[0].startswith(f"POST {PATH} HTTP/1.1".encode())
    assert proxy.seen == []


def test_certificates_are_verified_through_a_proxy(serve, make_client, tls):
    proxy, server = serve(tunnel), serve(replying(NO_CONTENT), tls=tls)
    client = make_client(proxy=through(proxy.port))
    url = f"https://ga4.example:{server.port}{PATH}"
    assert "mismatch" in failure(TlsError, client.post, url).reason.lower()
    assert server.seen == []


def test_a_tunnel_that_was_cut_while_idle_is_dug_again(serve, make_client, tls):
    proxy, server = serve(tunnel), serve(cutting(NO_CONTENT), tls=tls)
    client = make_client(proxy=through(proxy.port))
    for _ in range(2):
        assert client.post(server.url).status_code == 204
        assert proxy.closed.wait(SOON)
        proxy.closed.clear()
    assert (len(server.seen), len(proxy.seen)) == (2, 2)


@pytest.mark.parametrize("status", ["407 Proxy Authentication Required", "403 Forbidden"])
def test_a_proxy_that_refuses_is_a_proxy_error(serve, make_client, status):
    proxy = serve(cutting(answer(b"", status=status)))
    error = failure(
        ProxyError, make_client(proxy=through(proxy.port)).post, f"https://ga4.example{PATH}"
    )
    assert not error.maybe_sent
    assert f"answer {status[:3]}" in str(error)


def test_a_proxy_that_hangs_up_is_a_proxy_error(serve, make_client):
    proxy = serve(cutting(b""))
    error = failure(
        ProxyError, make_client(proxy=through(proxy.port)).post, f"https://ga4.example{PATH}"
    )
    assert not error.maybe_sent


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_is_not_there_is_a_proxy_error(make_client, closed_port, scheme):
    client = make_client(proxy=through(closed_port, user=f"user:{SECRET}@"))
    error = failure(ProxyError, client.post, f"{scheme}://ga4.example{PATH}")
    assert (error.errno, error.maybe_sent) == (errno.ECONNREFUSED, False)


def test_a_proxy_with_an_unknown_name_is_a_proxy_error(make_client):
    client = make_client(proxy="http://proxy.example:3128", resolve=to())
    error = failure(ProxyError, client.post, f"http://ga4.example{PATH}")
    assert "proxy.example" in str(error)
    assert not error.maybe_sent


def test_a_request_cut_by_a_forwarding_proxy_may_have_been_sent(serve, make_client):
    proxy = serve(cutting(b""))
    error = failure(
        BrokenError, make_client(proxy=through(proxy.port)).post, f"http://ga4.example{PATH}"
    )
    assert error.maybe_sent
    assert len(proxy.seen) == 1


@pytest.mark.parametrize("drop", [b"H", b"HTTP/1.1 200 OK\r\nX: y\r\n"])
def test_a_proxy_that_drips_is_cut_off(serve, make_client, drop):
    proxy = serve(dripping(b"", drop))
    client = make_client(proxy=through(proxy.port))
    late(client.post, f"https://ga4.example{PATH}", maybe_sent=False)
    assert proxy.hung_up.wait(SOON)


def test_a_handshake_that_hangs_behind_the_proxy_is_cut_off(serve, make_client):
    proxy, server = serve(tunnel), serve(silent)
    client = make_client(proxy=through(proxy.port))
    late(client.post, f"https://ga4.example:{server.port}{PATH}", maybe_sent=False)


@pytest.mark.parametrize("proxy", ["socks5://h:1", "https://h:1", "h:1", "http://"])
def test_a_proxy_that_is_no_http_proxy_is_a_value_error(proxy):
    with pytest.raises(ValueError, match="cannot use the proxy"):
        Client(proxy=proxy)


# The Client itself


@pytest.mark.parametrize("text", [None, "no certificate"])
def test_a_bad_ca_file_is_an_os_error_with_its_name(tmp_path, text):
    path = tmp_path / "ca.pem"
    if text is not None:
        path.write_text(text)
    with pytest.raises(OSError, match="cannot read the certificates") as caught:
        Client(ca_file=str(path))
    assert caught.value.filename == str(path)
    assert caught.value.errno == (errno.ENOENT if text is None else errno.EINVAL)


def test_a_closed_client_has_no_connections_and_may_be_used_again(serve, client):
    server = serve(replying(NO_CONTENT))
    client.post(server.url)
    client.close()
    assert server.closed.wait(SOON)
    assert client.post(server.url).status_code == 204
