"""What a stranger can learn or do: nothing. Secrets, foreign pages, slow and huge requests, modes."""

import base64
import contextlib
import gzip
import http.client
import json
import os
import re
import signal
import socket
import ssl
import stat
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
import trustme

from agent.emulator import Emulator, Fault
from agent.intake.http import CONNECTIONS_MAX, HEADERS_MAX
from tests.acceptance.daemon import Daemon
from tests.acceptance.publishers import event, hand_in, ids_of
from tests.intake.publisher import Publisher
from tests.mosquitto import Mosquitto, program
from tests.waiting import PATIENCE, until

READ_DEADLINE = 2.0  # seconds: what Setup configures
MEMORY_MAX = 96 * 1024  # kB: without bounds it was 138 MB (the broker), or what was sent (HTTP)
MAX_BODY = 2**20  # bytes: http.max_body of its own accord


# -- no secret, nowhere -------------------------------------------------------------------------

# Of letters that URLs, JSON and shells write differently.
SECRETS = {
    name: f"{name}&5ec/ret+7731=" for name in ("api", "mqtt", "token", "salt", "proxy", "wrong")
}


def spellings(secret: str) -> set[bytes]:
    """How a secret could be told: as it is, in a URL, in a header, in a dump."""
    raw = secret.encode()
    told = {raw, quote(secret).encode(), quote(secret, "").encode(), quote_plus(secret).encode()}
    for user in ("", "agent:", "kiosk:"):
        # Without the end, which depends on what stands behind it.
        told.add(base64.b64encode(user.encode() + raw)[:-4])
    return told | {raw.hex().encode(), raw.hex().upper().encode()}


def told_in(text: bytes, secrets=tuple(SECRETS)) -> list[str]:
    """The names of the secrets that the text tells."""
    return [name for name in secrets if any(each in text for each in spellings(SECRETS[name]))]


class Vault:
    """The files of the secrets."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.files = {name: directory / name for name in SECRETS}
        for name, file in self.files.items():
            file.write_text(SECRETS[name] + "\n")
        self.open_to(0o600)

    def open_to(self, mode: int) -> None:
        for file in self.files.values():
            file.chmod(mode)


class Proxy:
    """Answers each CONNECT with one text, and hangs up. ``asked`` counts."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._run)
        self.port = self._server.getsockname()[1]
        self.answer = b""
        self.asked = 0
        self.credentials = b""

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._server.close()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                connection.settimeout(5)
                request = connection.recv(65_536)
                self.credentials = self.credentials or request
                self.asked += 1
                connection.sendall(self.answer)


class Story:
    """A daemon with every secret there is, and all that it and its commands said."""

    def __init__(self, daemon: Daemon, vault: Vault) -> None:
        self.daemon, self.vault = daemon, vault
        self.said: list[bytes] = []
        del daemon.environ["GA4_API_SECRET"]

    # -- configuration

    def configure(self, *, emulator: Emulator, https: str, broker: int, password: str, more: str):
        """Streams to the emulator, to ``https``, and to a name that nobody has."""
        files = self.vault.files
        secret = f'api_secret_file = "{files["api"]}"'
        self.daemon.write(f"""
state_directory = "{self.daemon.setup.state}"
volatile = true
[log]
level = "debug"
[stream.main]
measurement_id = "G-SECURE0001"
endpoint = "{emulator.url}"
{secret}
[stream.https]
measurement_id = "G-SECURE0002"
endpoint = "{https}"
{secret}
[stream.nobody]
measurement_id = "G-SECURE0003"
endpoint = "https://ga4.invalid"
{secret}
[device]
id_salt_file = "{files["salt"]}"
[http]
listen = "127.0.0.1:{self.daemon.setup.http_port}"
token_file = "{files["token"]}"
read_deadline = "2 s"
[mqtt]
host = "127.0.0.1"
port = {broker}
username = "kiosk"
password_file = "{files[password]}"
reconnect_max = "1 s"
[[mqtt.subscriptions]]
topic = "till/+"
event = "sale"
client_key = "{{json.card}}"
[delivery]
max_delay = "50 ms"
timeout = "1 s"
{more}
""")

    # -- doing

    def ask(self, method: str, target: str, body: bytes = b"", **headers: str) -> int:
        """One HTTP request, with the token unless told otherwise; keeps what was answered."""
        connection = http.client.HTTPConnection(
            "127.0.0.1", self.daemon.setup.http_port, timeout=PATIENCE
        )
        headers = {"Authorization": f"Bearer {SECRETS['token']}"} | headers
        with contextlib.closing(connection):
            connection.request(method, target, body, headers)
            response = connection.getresponse()
            self.said.append(f"{response.headers}".encode() + response.read())
            return response.status

    def say(self, request: bytes) -> None:
        """Bytes that are no HTTP perhaps; keeps the answer."""
        address = ("127.0.0.1", self.daemon.setup.http_port)
        with socket.create_connection(address, timeout=PATIENCE) as sock:
            sock.sendall(request)
            sock.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionError):
                while data := sock.recv(65_536):
                    self.said.append(data)

    def hand_in(self, stream: str = "") -> None:
        query = f"?measurement_id={stream}" if stream else ""
        assert self.ask("POST", f"/events{query}", json.dumps(event(1)).encode()) == 202

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        done = self.daemon.command(*arguments)
        self.said.append(f"{arguments} {done.stdout}{done.stderr}".encode())
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def look(self) -> None:
        """Keep all that there is to see from outside."""
        for path in ("/status", "/healthz", "/metrics", "/"):
            self.ask("GET", path)
        for name in ("cmdline", "comm", "status"):
            self.said.append(Path(f"/proc/{self.daemon.pid}/{name}").read_bytes())
        for command in ("status", "recent"):  # the second one is what ``tail`` shows
            self.said.append(json.dumps(self.daemon.ask(command)).encode())
        for words in ("status --json", "doctor", "check", "config show"):
            self.command(*words.split())

    def wait_stream(self, name: str, reason: str) -> None:
        """Wait until a stream says why it delivers nothing; urge it on meanwhile."""

        def says(status) -> bool:
            (stream,) = (each for each in status["streams"] if each["stream"] == name)
            self.said.append(json.dumps(stream).encode())
            return reason in stream["reason"]

        self.daemon.wait(says, flush=True)

    # -- looking at it all

    def nothing_told(self) -> None:
        """Neither in the log, nor in answers, nor in a file of the state directory."""
        for text in self.said:
            assert told_in(text) == [], text
        assert told_in(self.daemon.log.encode()) == []
        files = [path for path in self.daemon.setup.state.rglob("*") if path.is_file()]
        assert {"queue.db", "last-good.toml"} <= {path.name for path in files}
        for path in files:
            # The last good configuration is a copy: what the user wrote into it is in it.
            written = ["proxy"] if path.name == "last-good.toml" else []
            others = [name for name in SECRETS if name not in written]
            assert told_in(path.read_bytes(), others) == [], path
            if written:
                assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.fixture
def guarded(tmp_path):
    """A broker that lets in the user kiosk with the password and nobody else."""
    passwords = tmp_path / "passwords"
    command = [program("mosquitto_passwd"), "-b", "-c", passwords, "kiosk", SECRETS["mqtt"]]
    subprocess.run(command, check=True)
    options = f"allow_anonymous false\npassword_file {passwords}"
    with Mosquitto(tmp_path / "guarded", options) as broker:
        yield broker


@pytest.fixture
def untrusted():
    """An emulator with a certificate of nobody's authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    with Emulator(tls=context) as emulator:
        yield emulator


@pytest.fixture
def proxy():
    with Proxy() as proxy:
        yield proxy


@pytest.fixture
def vault(tmp_path):
    return Vault(tmp_path / "vault")


@pytest.fixture
def story(make_daemon, setup, vault):
    return Story(make_daemon(setup), vault)


FAULTS = [
    *[Fault("status", status=status) for status in (400, 401, 403, 404, 407, 413, 429, 500, 503)],
    Fault("login_page"),
    Fault("redirect"),
    Fault("body"),
    Fault("cut_before"),
    Fault("cut_half"),
    Fault("hang"),
]


def test_the_search_finds_a_secret_however_it_is_spelt(vault):
    secret = SECRETS["proxy"]
    for text in (
        vault.files["proxy"].read_bytes(),
        f"GET /?api_secret={quote_plus(secret)}&x=1".encode(),
        b"Proxy-Authorization: Basic " + base64.b64encode(f"agent:{secret}".encode()),
        json.dumps({"url": f"http://agent:{quote(secret, '')}@proxy"}).encode(),
        repr(KeyError(secret)).encode(),
    ):
        assert told_in(b"before " + text + b" after") == ["proxy"], text


@pytest.mark.slow
def test_no_secret_is_told_whatever_the_endpoint_the_broker_and_clients_do(
    story, emulator, untrusted, guarded
):
    story.configure(
        emulator=emulator, https=untrusted.url, broker=guarded.port, password="wrong", more=""
    )
    story.daemon.start()
    story.daemon.wait(lambda status: "cannot log in" in str(status["sources"]["mqtt"]["problem"]))
    for stream, reason in (("https", "cannot trust 127.0.0.1"), ("nobody", "cannot find")):
        story.hand_in({"https": "G-SECURE0002", "nobody": "G-SECURE0003"}[stream])
        story.wait_stream(stream, reason)
    for fault in FAULTS:
        before = emulator.attempts
        emulator.fail(fault)
        story.hand_in()
        story.daemon.wait(lambda _, b=before: emulator.attempts > b + 1, flush=True)
        story.said.append(json.dumps(story.daemon.status()).encode())
    emulator.recover()
    misuse(story)
    spool = story.daemon.setup.state / "spool"
    (spool / "no-events.json").write_bytes(b"{")
    until(lambda: list((spool / "bad").glob("no-events*")), "the file to be set aside")
    story.look()
    for words in ("status", "ledger", "queue list", "dead list", "queue export", "dead export",
                  "secret fingerprint", "identity show", "config show --json"):  # fmt: skip
        story.command(*words.split())
    assert SECRETS["wrong"] in story.vault.files["wrong"].read_text()
    assert any(request.query["api_secret_present"] for request in emulator.requests())
    assert story.daemon.end() == 0
    story.nothing_told()


def misuse(story: Story) -> None:
    """Requests of those who may not, or do not know how; each has a secret in it."""
    secret, token = quote_plus(SECRETS["api"]), quote_plus(SECRETS["token"])
    body = b'{"client_id":"1.1","events":[{"name":"tap","params":{"id":1}}]}'
    paths = ("/mp/collect", "/debug/mp/collect", "/events", "/status", "/metrics", "/nowhere")
    for path in paths:
        for query in ("measurement_id=G-SECURE0001", "measurement_id=G-OTHER", ""):
            target = f"{path}?{query}&api_secret={secret}&token={token}"
            for method in ("POST", "GET"):
                story.ask(method, target, body if method == "POST" else b"")
    target = f"/events?api_secret={secret}"
    assert story.ask("POST", target, body, Authorization="Bearer no") == 401
    assert story.ask("POST", target, body, Authorization=f"Basic {SECRETS['token']}") == 401
    assert story.ask("POST", target, body, Host="evil.example") == 403
    assert story.ask("POST", target, body, Origin="https://evil.example") == 403
    assert story.ask("POST", target, b"{") == 400
    assert story.ask("POST", target, body, **{"Content-Encoding": "gzip"}) == 415
    for beginning in (b"POST ", b"POST http://[bad/", b"\x16\x03", b""):
        story.say(beginning + target.encode() + b" HTTP/9\r\nX: " + token.encode() + b"\r\n\r\n")
    story.say(b"GET /status HTTP/1.1\r\nX: " + token.encode() * 2000 + b"\r\n\r\n")


@pytest.mark.slow
def test_no_secret_is_told_whatever_the_proxy_does_and_whoever_can_read_the_files(
    story, emulator, guarded, proxy
):
    url = f"http://agent:{quote(SECRETS['proxy'], '')}@127.0.0.1:{proxy.port}"
    good = {"emulator": emulator, "https": "https://ga4.invalid", "broker": guarded.port}
    story.configure(**good, password="mqtt", more=f'[network]\nproxy = "{url}"')
    proxy.answer = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"
    story.daemon.start()
    story.hand_in("G-SECURE0002")
    story.wait_stream("https", "proxy")
    expected = base64.b64encode(f"agent:{SECRETS['proxy']}".encode())
    assert expected in proxy.credentials, "it is in use"
    for answer in (b"", b"HTTP/1.1 502 no\r\n\r\n", b"nonsense\r\n\r\n", b"\x16\x03\x03\x00\x02"):
        proxy.answer, before = answer, proxy.asked
        story.daemon.wait(lambda _, b=before: proxy.asked > b + 1, flush=True)
    taken_with_the_password(story, guarded, emulator)
    story.look()
    broken_configurations(story, url)
    story.daemon.end()
    unfit_files(story)
    story.nothing_told()


def taken_with_the_password(story, guarded, emulator) -> None:
    """The broker's password works, and the salt makes an id of a card."""
    story.daemon.wait(lambda status: not status["sources"]["mqtt"]["problem"])
    until(lambda: guarded.said("Sending SUBACK to ga4-agent-") >= 1, "the subscription")
    with Publisher(guarded.port, login=("kiosk", SECRETS["mqtt"])) as publisher:
        publisher.publish("till/1", b'{"card":"4711"}')
    assert emulator.wait_for(
        lambda: any(each["name"] == "sale" for each in emulator.events()), PATIENCE
    )


def broken_configurations(story: Story, url: str) -> None:
    """Typing errors around a secret, read anew by the daemon and by check."""
    good = story.daemon.config.read_text()
    secret = SECRETS["proxy"]
    for broken in (
        good.replace(url, f"{url}/path"),
        good.replace(f'"{url}"', url),
        good.replace("[network]", f'[network]\nproxi = "{secret}"'),
        good + f'\n[stream.main]\napi_secret = "{SECRETS["api"]}"\n',
        good.replace("[http]", f'[http]\ntoken = "{SECRETS["token"]}"'),
        good.replace('username = "kiosk"', f'username = "kiosk"\npassword = "{SECRETS["mqtt"]}"'),
        good.replace("id_salt_file", "id_salt"),
    ):
        assert broken != good
        story.daemon.write(broken)
        story.daemon.signal(signal.SIGHUP)
        seen = story.daemon.wait(lambda status: status["config_problems"])
        story.said.append(json.dumps(seen).encode())
        assert story.command("check").returncode == 2
        story.daemon.write(good)
        story.daemon.signal(signal.SIGHUP)
        story.daemon.wait(lambda status: not status["config_problems"])


def unfit_files(story: Story) -> None:
    """Secret files that everybody can read, or with more in them than a secret."""
    vault = story.vault
    vault.open_to(0o644)
    doubled = {name: f"{SECRETS[name]}\n{SECRETS[name]}\n".encode() for name in SECRETS}
    binary = {name: SECRETS[name].encode() + b"\xff" for name in SECRETS}
    for contents in ({}, doubled, binary):
        for name, content in contents.items():
            vault.files[name].write_bytes(content)
        # Its HTTP is shut: it has no token.
        story.daemon.spawn()
        seen = story.daemon.wait(lambda status: len(status["secret_problems"]) >= 4)
        assert not story.daemon.listens()
        story.said.append(json.dumps(seen).encode())
        for words in ("status --json", "doctor", "check", "secret fingerprint"):
            story.command(*words.split())
        assert story.daemon.end() == 0
        vault.open_to(0o600)


BUGGY = """
import os, sys
from pathlib import Path
from agent import daemon
from agent.cli.run import log_to_stderr
{imports}

secrets = [Path(os.environ["VAULT"], name).read_text() for name in ("api", "token", "salt")]

def broken(*_, **__):
    try:
        raise ValueError(*secrets)
    except ValueError as error:
        raise KeyError(*secrets) from error

{place} = broken
log_to_stderr(10)
sys.exit(daemon.run(Path(sys.argv[2])))
"""
PLACES = {
    "main thread": ("from agent.service import Service", "Service.mend"),
    "start": ("from agent.service import Service", "Service._built"),
    "http": ("from agent.intake.http import Application", "Application._healthz"),
    "mqtt": ("from agent.intake.mqtt import MqttSource", "MqttSource._commit"),
    "shipper": ("from agent.delivery import shipper", "shipper.build"),
    "spool": ("from agent.intake.spool_folder import SpoolFolder", "SpoolFolder.names"),
}


@pytest.mark.parametrize("place", PLACES)
def test_no_secret_is_told_by_a_crash(story, emulator, guarded, place):
    """An exception's message may hold anything: only its kind and its place are told."""
    story.configure(
        emulator=emulator, https=emulator.url, broker=guarded.port, password="mqtt", more=""
    )
    imports, name = PLACES[place]
    daemon = story.daemon
    daemon.start()  # so that there is a queue, and a subscription
    until(lambda: guarded.said("Sending SUBACK to ga4-agent-") >= 1, "the subscription")
    daemon.end()
    daemon.program = (sys.executable, "-c", BUGGY.format(imports=imports, place=name))
    daemon.environ["VAULT"] = str(story.vault.files["api"].parent)
    daemon.bugs_expected = True
    daemon.spawn()
    with contextlib.suppress(OSError, http.client.HTTPException, AssertionError):
        provoke(story, guarded, place)
    assert daemon.exit_status() == 1
    (line,) = [line for line in daemon.log.splitlines() if "a bug ends the agent" in line]
    assert "KeyError at <string>:" in line
    story.nothing_told()


def provoke(story: Story, broker: Mosquitto, place: str) -> None:
    if place == "mqtt":
        with Publisher(broker.port, login=("kiosk", SECRETS["mqtt"])) as publisher:
            publisher.publish("till/1", b'{"card":"4711"}')
    if place in {"http", "shipper"}:
        until(story.daemon.listens, story.daemon.tail)
        story.ask("GET", "/healthz")
        story.hand_in()


# -- who may speak: the daemon as it is configured ------------------------------------------------


@pytest.fixture
def daemon(make_daemon, setup):
    daemon = make_daemon(setup)
    daemon.start()
    return daemon


def answer(port: int, request: bytes) -> bytes:
    """The first line that is answered to these bytes."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as sock:
        with contextlib.suppress(ConnectionError):  # it may be refused before it was all said
            sock.sendall(request)
        with contextlib.suppress(ConnectionError):
            return sock.makefile("rb").readline()
    return b""


def status(port: int, request: bytes) -> int:
    return int((answer(port, request).split() or [b"", b"0"])[1])


ROUTES = [
    ("POST", "/events"),
    ("POST", "/mp/collect"),
    ("POST", "/debug/mp/collect"),
    ("GET", "/status"),
    ("GET", "/healthz"),
    ("GET", "/metrics"),
    ("GET", "/"),
    ("GET", "/nowhere"),
    ("OPTIONS", "/events"),
]
TAP = b'{"name":"tap","params":{"id":1}}'


def request(method: str, path: str, *headers: str, body: bytes = TAP) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", *headers]
    body = body if method == "POST" else b""
    lines += [f"Content-Length: {len(body)}", "Connection: close", "", ""]
    return "\r\n".join(lines).encode() + body


@pytest.mark.parametrize(
    "headers",
    [
        ["Host: evil.example"],
        ["Host: evil.example", "X-Forwarded-Host: localhost"],
        ["Host: evil.example", "Forwarded: host=localhost;proto=https"],
        ["Host: localhost", "Host: evil.example"],
        ["Host: localhost@evil.example"],
        ["Host: localhost", "Origin: https://evil.example"],
        ["Host: localhost", "Origin: null"],
        ["Host: localhost", "Origin: http://localhost.evil.example"],
        ["Host: kiosk.lan", "Origin: http://page.lan"],
    ],
    ids=" ".join,
)
def test_no_route_answers_a_foreign_page_or_a_rebound_name(make_daemon, setup, headers):
    """Neither with events nor with what the agent knows; also on what is not there."""
    http_lines = 'hosts = ["kiosk.lan"]\norigins = ["https://page.lan"]'
    daemon = make_daemon(replace(setup, http=http_lines))
    daemon.start()
    port = setup.http_port
    statuses = {status(port, request(*route, *headers)) for route in ROUTES}
    assert statuses <= {403, 400}, "400: two Hosts are no request"
    own = ["Host: kiosk.lan", "Origin: https://page.lan"]
    assert status(port, request("POST", "/events", *own)) == 202
    books = daemon.drained()
    assert books.received == 1
    assert sum(books.refused.values()) == len(ROUTES)


def test_what_stands_in_the_request_line_is_not_taken_for_the_host(daemon):
    """A page cannot choose it, but a proxy on the way may."""
    line = b"POST http://localhost/events HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 32\r\n"
    assert status(daemon.setup.http_port, line + b"\r\n" + TAP) == 403


OFF_LOOPBACK = "0.0.0.0"


def off_loopback(setup, http: str) -> str:
    text = setup.toml().replace('listen = "127.0.0.1:', f'listen = "{OFF_LOOPBACK}:')
    return text.replace('read_deadline = "2 s"', f'read_deadline = "2 s"\n{http}')


def test_off_loopback_it_does_not_start_without_a_token(make_daemon, setup):
    daemon = make_daemon(setup)
    daemon.write(off_loopback(setup, ""))
    done = daemon.command("check")
    assert (done.returncode, "http.token_file: found nothing" in done.stderr) == (2, True)
    daemon.spawn()
    assert daemon.exit_status() == 2
    assert not daemon.listens()


def test_off_loopback_nobody_is_heard_without_the_token(make_daemon, setup, vault):
    daemon = make_daemon(setup)
    daemon.write(off_loopback(setup, f'token_file = "{vault.files["token"]}"'))
    daemon.start()
    port, host = setup.http_port, "Host: localhost"
    bearer = f"Authorization: Bearer {SECRETS['token']}"
    for route in ROUTES:
        assert status(port, request(*route, host)) == 401, route
    assert status(port, request("POST", "/events", host, bearer)) == 202
    assert status(port, request("GET", "/status", host, bearer)) == 200
    assert daemon.drained().received == 1


@pytest.mark.parametrize("trouble", ["missing", "empty", "readable by others"])
def test_without_a_usable_token_the_door_stays_shut(make_daemon, setup, vault, trouble):
    """Not open: who configured a token does not expect to be heard without."""
    file = vault.files["token"]
    match trouble:
        case "missing":
            file.unlink()
        case "empty":
            file.write_text("")
        case _:
            file.chmod(0o604)
    for text in (
        off_loopback(setup, f'token_file = "{file}"'),
        replace(setup, http=f'token_file = "{file}"').toml(),
    ):
        daemon = make_daemon(setup)
        daemon.write(text)
        daemon.spawn()
        seen = daemon.wait(lambda status: status["secret_problems"])
        assert str(file) in seen["secret_problems"][0]
        assert not daemon.listens()
        assert daemon.end() == 0


@pytest.mark.parametrize(
    "host", ["www.google-analytics.com", "192.168.1.7", "localhost.lan", "[::]"]
)
def test_an_endpoint_without_tls_is_refused_unless_it_is_this_machine(make_daemon, setup, host):
    daemon = make_daemon(replace(setup, endpoint=f"http://{host}"))
    done = daemon.command("check")
    assert done.returncode == 2
    assert f"stream.main.endpoint: found 'http://{host}', expected an https URL" in done.stderr
    daemon.spawn()
    assert daemon.exit_status() == 2


# -- requests that are meant to hurt --------------------------------------------------------------

HEAD = b"POST /events HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
BOMB = gzip.compress(bytes(50 * 2**20))  # fifty mebibytes of nothing


def with_length(body: bytes, *headers: bytes) -> bytes:
    lines = b"".join(header + b"\r\n" for header in headers)
    return HEAD + lines + b"Content-Length: %d\r\n\r\n" % len(body) + body


def in_chunks(body: bytes, size: int) -> bytes:
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return CHUNKED + b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in pieces) + b"0\r\n\r\n"


PADDED = TAP + b" " * (MAX_BODY - 1 - len(TAP))
# What is answered; 0: the connection ends without a word, which is all right for an attack.
HOSTILE = {
    "a body as large as may be": (with_length(PADDED), {202}),
    "one beyond": (with_length(PADDED + b"  "), {413}),
    "chunks as large as may be": (in_chunks(PADDED[: MAX_BODY - 4096], 65_536), {202}),
    "chunks of one byte": (in_chunks(TAP, 1), {202}),
    "chunks beyond": (in_chunks(PADDED * 2, 65_536), {413, 0}),
    "a chunk of 2^60 bytes": (CHUNKED + b"1000000000000000\r\n" + PADDED * 2, {413, 400, 0}),
    "a chunk of no number": (CHUNKED + b"-1\r\n" + TAP + b"\r\n0\r\n\r\n", {400}),
    "an endless extension": (CHUNKED + b"1;" + b"a" * 2 * MAX_BODY, {413, 400, 0}),
    "endless trailers": (
        CHUNKED + b"0\r\n" + b"".join(b"X-%d: x\r\n" % n for n in range(200_000)),
        {413, 400, 0},
    ),
    "two lengths": (with_length(TAP, b"Content-Length: 3"), {400}),
    "a length beside chunks": (
        CHUNKED.replace(b"\r\n\r\n", b"\r\nContent-Length: 5\r\n\r\n") + b"0\r\n\r\n",
        {400, 202},
    ),
    "a negative length": (HEAD + b"Content-Length: -1\r\n\r\n" + TAP, {400}),
    "a length of 10^30": (HEAD + b"Content-Length: 1" + b"0" * 30 + b"\r\n\r\n", {413, 400}),
    "a bomb": (with_length(BOMB, b"Content-Encoding: gzip"), {415}),
    "a bomb in chunks": (
        in_chunks(BOMB, 4096).replace(b"\r\n", b"\r\nContent-Encoding: gzip\r\n", 1),
        {415},
    ),
    "a bomb in capitals": (with_length(BOMB, b"Content-Encoding: GZIP"), {415}),
    "a bomb of bombs": (with_length(gzip.compress(BOMB), b"Content-Encoding: gzip, gzip"), {415}),
    "a bomb that hides": (with_length(BOMB), {400}),
    "a bomb in transfer": (HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n", {501, 400}),
    "a huge header": (HEAD + b"X: " + b"x" * 2**20, {431, 0}),
    "headers without end": (HEAD + b"".join(b"X-%d: x\r\n" % n for n in range(90_000)), {431, 0}),
    "a huge request line": (b"GET /" + b"x" * HEADERS_MAX * 4, {431, 414, 400, 0}),
    "a folded header": (HEAD + b"X: a\r\n b\r\nContent-Length: 32\r\n\r\n" + TAP, {202, 400}),
    "a bare line feed": (HEAD + b"X: a\nY: b\r\nContent-Length: 32\r\n\r\n" + TAP, {202, 400}),
    "a zero byte": (HEAD + b"X\0Y: b\r\nContent-Length: 32\r\n\r\n" + TAP, {202, 400}),
    "nesting without end": (with_length(b"[" * 500_000), {400}),
    "a number without end": (with_length(b"9" * 500_000), {400}),
    "a name without end": (with_length(b'{"name":"' + b"n" * 900_000 + b'"}'), {202, 400}),
}


def peak_kb(daemon) -> int:
    """The most memory that it ever held, in kB."""
    told = Path(f"/proc/{daemon.pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", told)[1])


def test_no_request_is_too_hostile_to_be_answered_and_forgotten(daemon):
    """Each by itself, then a good one: nothing is unpacked, and memory stays what it was."""
    port = daemon.setup.http_port
    found = {name: status(port, sent) for name, (sent, _) in HOSTILE.items()}
    wrong = {name: said for name, said in found.items() if said not in HOSTILE[name][1]}
    assert wrong == {}
    hand_in(port, [7])
    books = daemon.drained()
    assert books.received == 1 + sum(said == 202 for said in found.values())
    assert peak_kb(daemon) < MEMORY_MAX


# -- slow clients -------------------------------------------------------------------------------


def reading(count: int, port: int, beginning: bytes, stack) -> list[socket.socket]:
    """Connections on which a request has begun, or nothing was said."""
    wires = []
    for _ in range(count):
        wire = stack.enter_context(socket.create_connection(("127.0.0.1", port), PATIENCE))
        wire.sendall(beginning)
        wires.append(wire)
    return wires


def served_within(port: int, seconds: float) -> float:
    """Seconds until somebody's event was taken."""
    begin = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=seconds)
    with contextlib.closing(connection):
        connection.request("POST", "/events", TAP)
        assert connection.getresponse().status == 202
    return time.monotonic() - begin


@pytest.mark.parametrize("beginning", [b"P", HEAD, HEAD + b"Content-Length: 99\r\n\r\n", CHUNKED])
def test_who_drips_is_cut_and_others_are_served_meanwhile(daemon, beginning):
    port = daemon.setup.http_port
    with contextlib.ExitStack() as stack:
        begin = time.monotonic()
        wires = reading(60, port, beginning, stack)
        cut = 0
        while cut < len(wires):
            served_within(port, PATIENCE)
            for wire in wires[cut:]:
                with contextlib.suppress(OSError):
                    wire.sendall(b"x")
            cut = sum(is_cut(wire) for wire in wires)
            assert time.monotonic() - begin < PATIENCE, f"{cut} of {len(wires)} were cut"
            time.sleep(0.1)
        assert time.monotonic() - begin > READ_DEADLINE - 0.5, "as long as they may take"


def is_cut(wire: socket.socket) -> bool:
    wire.setblocking(False)
    try:
        return wire.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


ANSWERED = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.mark.parametrize(
    "beginning",
    [b"", ANSWERED, b"P"],
    ids=["who say nothing", "who keep their connection", "who drip"],
)
def test_as_many_connections_as_there_can_be_do_not_shut_others_out(daemon, beginning):
    """More of them than the server takes: a program that leaks connections, or a page."""
    port = daemon.setup.http_port
    with contextlib.ExitStack() as stack:
        reading(CONNECTIONS_MAX + 10, port, beginning, stack)
        assert served_within(port, 4 * READ_DEADLINE) < 4 * READ_DEADLINE


# -- files --------------------------------------------------------------------------------------


@pytest.fixture
def careless():
    """Whoever starts it has no umask at all."""
    before = os.umask(0)
    yield
    os.umask(before)


def modes(directory: Path) -> dict[str, int]:
    """Of all that is in a directory, and of itself; what a program just removed is left out."""
    found = {}
    for path in (directory, *directory.rglob("*")):
        with contextlib.suppress(FileNotFoundError):
            found[str(path.relative_to(directory))] = stat.S_IMODE(path.lstat().st_mode)
    return found


def open_to_others(directory: Path) -> dict[str, str]:
    return {name: oct(mode) for name, mode in modes(directory).items() if mode & 0o007}


@pytest.mark.usefixtures("careless")
def test_nothing_that_the_agent_makes_is_open_to_others(make_daemon, mqtt_setup, broker, emulator):
    """After a life with a spool, bad files, dead letters, a kill, exports, the daemon away."""
    state = mqtt_setup.state
    daemon = make_daemon(mqtt_setup)
    assert daemon.command("send", "tap", "id=1").returncode == 0, "into the spool: nobody runs"
    assert open_to_others(state) == {}
    daemon.start()
    broker.wait_subscribed("kiosk/events")
    assert open_to_others(state) == {}
    (state / "spool" / "bad-one.json").write_bytes(b"{")
    (state / "spool" / "bad-one.json").chmod(0o640)
    with Publisher(broker.port) as publisher:
        publisher.publish("kiosk/events", b"\xff", json.dumps(event(2)).encode())
    hand_in(mqtt_setup.http_port, [3])
    assert emulator.wait_for(lambda: set(ids_of(emulator.events())) == {1, 2, 3}, PATIENCE)
    until(lambda: list((state / "spool" / "bad").glob("bad-one*")), "the file to be set aside")
    found = modes(state)
    assert {
        "queue.db",
        "queue.db-wal",
        "control.sock",
        "last-good.toml",
        "spool/bad",
    } <= found.keys()
    assert open_to_others(state) == {}
    emulator.stop()
    hand_in(mqtt_setup.http_port, range(4, 50))
    daemon.kill()
    assert open_to_others(state) == {}
    for words in ("status", "doctor", "queue list", "identity show", "ledger"):
        daemon.command(*words.split())
    for kind in ("queue", "dead"):
        assert (
            daemon.command(kind, "export", "--output", str(state / f"{kind}.ndjson")).returncode
            == 0
        )
    daemon.start()
    daemon.end()
    found = modes(state)
    assert {"queue.ndjson", "dead.ndjson"} <= found.keys()
    assert open_to_others(state) == {}
    # The group takes part where programs hand events in, and nowhere else it writes.
    shared = {name for name, mode in found.items() if mode & 0o020}
    assert all(name == "spool" or name.startswith("spool/") for name in shared), shared


@pytest.mark.usefixtures("careless")
def test_a_socket_for_http_is_for_its_user_and_group(make_daemon, setup):
    path = setup.state.parent / "http.sock"
    daemon = make_daemon(setup)
    daemon.write(setup.toml().replace(f"127.0.0.1:{setup.http_port}", f"unix:{path}"))
    daemon.spawn()
    daemon.wait(lambda status: not status["sources"]["http"]["problem"])
    until(path.exists, "the socket")
    until(lambda: stat.S_IMODE(path.stat().st_mode) == 0o660, "its mode")
