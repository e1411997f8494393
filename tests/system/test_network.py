"""Whatever stands between the device and GA4: events wait, nothing is lost, and it ends by itself.

Offline is judged by what became of deliveries, never by the link. Each fault is made for real,
between two network namespaces: see tests/system/network.py.
"""

import os
import socket
import ssl
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest
import trustme

from agent.emulator import Emulator, Fault
from agent.ga4.request import PROBE_PATH
from tests.acceptance.daemon import Setup
from tests.acceptance.device import Device
from tests.acceptance.publishers import hand_in, ids_of
from tests.system.network import PORTAL, WORLD, WORLD_6, Network, Proxy, missing_tools
from tests.waiting import free_port, until

pytestmark = pytest.mark.slow

HOST = "www.google-analytics.com"
FIRST = -1  # the number of the event that is delivered before anything happens
NUMBERS = range(120)
REPEATED_MAX = 4 * 25  # different events: connections x events of a request
BY_ITSELF = 60.0  # seconds: the first waits are 4, 8 and 16 at most, and an attempt takes its time
IPV4 = f"--host-record={HOST},{WORLD}"
BOTH = f"--host-record={HOST},{WORLD},{WORLD_6}"
EVERYTHING_IS_THE_PORTAL = f"--address=/#/{PORTAL}"
NO_SUCH_NAME = "--address=/#/"
PROXY_PORT, PROXY_PASSWORD = 3128, "pr0xy-w0rd-4711"


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What a fault can be made with."""

    network: Network
    ga4: Emulator
    authority: trustme.CA

    def hang_up(self) -> None:
        """End the connections that are open: the next request has to find the endpoint again."""
        self.ga4.stop()
        self.return_()

    def return_(self) -> None:
        """The endpoint is back."""
        with self.network.far.entered():
            self.ga4.start()

    @contextmanager
    def in_place_of_ga4(self, tls, host: str = WORLD) -> Iterator[Emulator]:
        """Somebody else answers, whom no request may reach."""
        self.ga4.stop()
        try:
            with self.network.far.entered():
                other = Emulator(host=host, port=443, tls=tls)
                other.start()
            with closing_emulator(other):
                yield other
        finally:
            self.return_()


@contextmanager
def closing_emulator(emulator: Emulator) -> Iterator[None]:
    try:
        yield
    finally:
        emulator.stop()
    assert emulator.bugs == ()


def certificate(authority: trustme.CA, *, name: str = HOST, days: int = -1) -> ssl.SSLContext:
    """A server's certificate, valid from so many days from now, for ten days."""
    begin = datetime.now(UTC) + timedelta(days=days)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(
        name, not_before=begin, not_after=begin + timedelta(days=10)
    ).configure_cert(context)
    return context


@pytest.fixture(scope="session")
def tools() -> None:
    if missing := missing_tools():
        tell = pytest.fail if os.environ.get("CI") else pytest.skip
        tell(f"cannot make networks: {missing}")


@pytest.fixture
def network(root, tools, tmp_path) -> Iterator[Network]:
    with Network(tmp_path) as network, network.near.entered():
        network.serve_names(IPV4)
        yield network


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def emulator(network, authority) -> Iterator[Emulator]:
    """GA4 under its own name, far away."""
    emulator = Emulator(host=WORLD, port=443, tls=certificate(authority))
    with network.far.entered():
        emulator.start()
    with closing_emulator(emulator):
        yield emulator


@pytest.fixture
def world(network, emulator, authority) -> World:
    return World(network=network, ga4=emulator, authority=authority)


@pytest.fixture
def setup(network, authority, tmp_path) -> Setup:
    file = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(file)
    return Setup(
        state=tmp_path / "state",
        http_port=free_port(),
        endpoint=f"https://{HOST}",
        http=f'[network]\nca_file = "{file}"\n',
        timeout="2 s",
    )


@pytest.fixture
def make_kiosk(network, make_daemon):
    """Makes daemons that live on the device, with its resolv.conf."""

    def make(setup: Setup):
        daemon = make_daemon(setup)
        daemon.program = network.near.inside(sys.executable, "-m", "agent", "run")
        return daemon

    return make


@pytest.fixture
def kiosk(make_kiosk, setup, emulator):
    """One that has delivered before: it knows the time, and has a connection to GA4."""
    kiosk = make_kiosk(setup)
    start_and_deliver(kiosk)
    assert ids_of(emulator.events()) == [FIRST]
    return kiosk


def start_and_deliver(kiosk) -> None:
    kiosk.start()
    hand_in(kiosk.setup.http_port, [FIRST])
    kiosk.wait(lambda status: status["ledger"]["sent"] == 1, timeout=BY_ITSELF)


def kept(kiosk, state: str, says: str = "", *, handed_in=NUMBERS):
    """Events are taken and kept while it fails, and the status says why."""
    hand_in(kiosk.setup.http_port, handed_in)
    seen = kiosk.wait(lambda status: status["state"] == state and says in status["reason"])
    assert seen["ledger"]["received"] - seen["ledger"]["sent"] == seen["queue"]["events"]
    assert (seen["ledger"]["dead"], seen["ledger"]["dropped"]) == (0, {})
    return seen


def arrive(kiosk, ga4, numbers, *, repeated_max: int = 0, flush: bool = False) -> int:
    """All of them do, as nobody is told before; how many did more than once.

    Without ``flush`` nobody urges the agent on.
    """
    kiosk.wait(lambda s: s["queue"]["events"] == 0, timeout=BY_ITSELF, flush=flush)
    books = kiosk.books()
    assert (books.sent, books.dead, dict(books.dropped)) == (len(numbers), 0, {})
    assert kiosk.wait(lambda status: status["state"] == "ok")
    times = Counter(ids_of(ga4.events()))
    assert sorted(times) == sorted(numbers)
    repeated = sum(number > 1 for number in times.values())
    assert repeated <= repeated_max, times
    return repeated


ALL = [FIRST, *NUMBERS]


# The way


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How the way to GA4 fails, and is mended. ``says``: what the status's reason contains.

    ``unclear``: a request may get through that nobody hears an answer to.
    """

    fails: Callable[[World], object]
    mended: Callable[[World], object] = lambda world: world.network.calm()
    says: str = ""
    unclear: bool = False


def disturbed(*rules: str, hang_up: bool = True) -> Callable[[World], None]:
    def fails(world: World) -> None:
        if hang_up:
            world.hang_up()
        world.network.disturb(*rules)

    return fails


def names(*options: str) -> Callable[[World], None]:
    def fails(world: World) -> None:
        world.hang_up()
        world.network.serve_names(*options)

    return fails


def unplugged(world: World) -> None:
    world.hang_up()
    world.network.unplug()


WAYS = {
    "blackholed": Way(fails=disturbed("tcp dport 443 : drop"), says="cannot "),
    "blackholed, connected": Way(
        fails=disturbed("tcp dport 443 : drop", hang_up=False),
        says="no complete answer within 2 s",
        unclear=True,
    ),
    "reset": Way(
        fails=disturbed("tcp dport 443 : reject with tcp reset"), says="connection refused"
    ),
    "reset, connected": Way(
        fails=disturbed("tcp dport 443 : reject with tcp reset", hang_up=False),
        says="cannot ",
    ),
    "large packets lost": Way(
        fails=disturbed("tcp dport 443 meta length > 1000 : drop"),
        says="no complete answer within 2 s",
        unclear=True,
    ),
    "unplugged": Way(fails=unplugged, mended=lambda world: world.network.plug_in()),
    "unplugged, connected": Way(
        fails=lambda world: world.network.unplug(),
        mended=lambda world: world.network.plug_in(),
        unclear=True,
    ),
    "server dead, link up": Way(
        fails=lambda world: world.ga4.stop(), mended=World.return_, says="connection refused"
    ),
    "no such name": Way(
        fails=names(NO_SUCH_NAME), mended=names(IPV4), says="cannot find the address"
    ),
    "names refused": Way(fails=names(), mended=names(IPV4), says="cannot find the address"),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_when_the_way_fails_everything_is_kept_and_goes_on_by_itself_when_it_is_mended(
    kiosk, world, way
):
    way.fails(world)
    seen = kept(kiosk, "offline", way.says)
    assert seen["ledger"]["sent"] == 1
    way.mended(world)
    arrive(kiosk, world.ga4, ALL, repeated_max=REPEATED_MAX if way.unclear else 0)


def test_a_silent_name_server_is_given_up_in_time_and_asked_again(make_kiosk, setup, world):
    """The system's own patience with it is longer, and none of it is the shipper's."""
    kiosk = make_kiosk(replace(setup, timeout="15 s"))
    start_and_deliver(kiosk)
    world.hang_up()
    world.network.disturb("udp dport 53 : drop")
    begin = time.monotonic()
    kept(kiosk, "offline", "no answer within 5 s")
    assert time.monotonic() - begin < 10
    assert world.network.disturbed() > 0
    world.network.calm()
    arrive(kiosk, world.ga4, ALL)


def test_a_server_that_takes_the_connection_and_says_nothing_is_given_up_at_the_deadline(
    kiosk, world
):
    world.ga4.stop()
    with world.network.far.entered():
        dumb = socket.create_server((WORLD, 443))
    with closing(dumb):
        kept(kiosk, "offline", "no complete answer within 2 s")
    world.return_()
    arrive(kiosk, world.ga4, ALL)


def test_a_server_that_drips_is_given_up_at_the_deadline(kiosk, world):
    """Each byte is a sign of life, and the whole answer would take ten seconds."""
    world.ga4.fail(Fault("drip", seconds=0.1, match='"tap"'))
    before = time.monotonic()
    kept(kiosk, "offline", "no complete answer within 2 s")
    assert 2 <= time.monotonic() - before < 8
    world.ga4.recover()
    assert arrive(kiosk, world.ga4, ALL, repeated_max=REPEATED_MAX) > 0


def test_an_answer_that_gets_lost_on_the_way_repeats_what_was_sent_and_no_more(kiosk, world):
    """The connection is half open: GA4 has counted, and the device never hears of it."""
    world.ga4.fail(Fault("delay", seconds=1.0, match='"tap"'))
    hand_in(kiosk.setup.http_port, [0])
    assert world.ga4.wait_for(lambda: 0 in ids_of(world.ga4.events()), 20)
    world.network.disturb_answers("tcp sport 443 : drop")
    seen = kept(kiosk, "offline", handed_in=NUMBERS[1:])
    assert seen["ledger"]["sent"] == 1
    world.ga4.recover()
    world.network.calm()
    assert arrive(kiosk, world.ga4, ALL, repeated_max=REPEATED_MAX) > 0


def test_a_bad_line_slows_it_down_and_loses_nothing(make_kiosk, setup, world):
    kiosk = make_kiosk(replace(setup, timeout="8 s"))
    world.network.disturb("tcp dport 443 numgen random mod 100 < 20 : drop")
    kiosk.start()
    hand_in(setup.http_port, NUMBERS)
    arrive(kiosk, world.ga4, list(NUMBERS), repeated_max=REPEATED_MAX, flush=True)
    assert world.network.disturbed() > 0


# Offline is no matter of the link


def test_without_any_link_an_endpoint_on_the_device_is_delivered_to(make_kiosk, setup, network):
    network.unplug()
    with Emulator(port=free_port()) as here:
        kiosk = make_kiosk(replace(setup, endpoint=here.url))
        kiosk.start()
        hand_in(setup.http_port, NUMBERS)
        arrive(kiosk, here, list(NUMBERS))
    assert here.bugs == ()


def test_a_new_default_route_ends_the_longest_wait(kiosk, world):
    unplugged(world)
    kept(kiosk, "offline")
    kiosk.wait_logged("INFO state: offline")  # by who also looks at the routes, once a second
    # The waits are random, and grow with each attempt.
    seen = kiosk.wait(lambda status: status["streams"][0]["next_try_s"] > 30, flush=True)
    assert seen["state"] == "offline"
    begin = time.monotonic()
    world.network.plug_in()
    arrive(kiosk, world.ga4, ALL)
    assert time.monotonic() - begin < 20


def test_a_device_that_starts_without_any_network_delivers_once_there_is_one(
    make_kiosk, setup, world
):
    world.network.unplug()
    kiosk = make_kiosk(setup)
    kiosk.start()
    kept(kiosk, "offline")
    assert world.ga4.attempts == 0
    world.network.plug_in()
    arrive(kiosk, world.ga4, list(NUMBERS))


# IPv6


def test_a_blackholed_ipv6_costs_seconds_and_no_attempt_where_ipv4_works(make_kiosk, setup, world):
    kiosk = make_kiosk(replace(setup, timeout="20 s"))
    world.network.serve_names(BOTH)
    world.network.disturb("meta nfproto ipv6 tcp dport 443 : drop")
    kiosk.start()
    begin = time.monotonic()
    hand_in(setup.http_port, [0])
    arrive(kiosk, world.ga4, [0])
    assert 2.5 < time.monotonic() - begin < 15
    assert world.network.disturbed() > 0
    assert "offline" not in kiosk.log


def test_a_network_of_ipv6_alone_will_do(make_kiosk, setup, network, authority):
    network.serve_names(f"--host-record={HOST},{WORLD_6}")
    with network.far.entered():
        six = Emulator(host=WORLD_6, port=443, tls=certificate(authority))
        six.start()
    kiosk = make_kiosk(setup)
    with closing_emulator(six):
        kiosk.start()
        hand_in(setup.http_port, NUMBERS)
        arrive(kiosk, six, list(NUMBERS))


# Who answers is not GA4

CERTIFICATES = {
    "expired": (lambda ours: certificate(ours, days=-50), "offline", "expired"),
    "foreign": (lambda _: certificate(trustme.CA()), "offline", "cannot trust"),
    "another name": (
        lambda ours: certificate(ours, name="login.example"),
        "offline",
        "mismatch",
    ),
    # With the right time on the device it is no clock that blocks, and the status says so.
    "not yet valid": (
        lambda ours: certificate(ours, days=5),
        "clock_blocks_tls",
        "not yet valid",
    ),
    "none at all": (lambda _: None, "offline", "cannot trust"),
}


@pytest.mark.parametrize(("make", "state", "says"), CERTIFICATES.values(), ids=CERTIFICATES)
def test_who_cannot_prove_to_be_ga4_gets_nothing(kiosk, world, make, state, says):
    with world.in_place_of_ga4(make(world.authority)) as other:
        seen = kept(kiosk, state, says)
        assert seen["ledger"]["sent"] == 1
        assert other.requests() == ()
    arrive(kiosk, world.ga4, ALL, flush=True)


@pytest.mark.parametrize("secure", [True, False], ids=["https", "http"])
def test_a_captive_portal_that_every_name_leads_to_gets_nothing(kiosk, world, secure):
    tls = certificate(trustme.CA(), name="login.example") if secure else None
    with ExitStack() as stack:
        with world.network.far.entered():
            portal = Emulator(host=PORTAL, port=443, tls=tls)
            portal.start()
        stack.enter_context(closing_emulator(portal))
        names(EVERYTHING_IS_THE_PORTAL)(world)
        portal.fail(Fault("login_page"))
        seen = kept(kiosk, "offline", "cannot trust")
        assert seen["ledger"]["sent"] == 1
        assert portal.requests() == ()
    world.network.serve_names(IPV4)  # somebody has logged in
    arrive(kiosk, world.ga4, ALL)


def test_a_device_that_wakes_up_in_1970_says_so_and_delivers_once_it_knows_the_time(
    make_kiosk, setup, world, tmp_path
):
    device = Device(tmp_path)
    kiosk = make_kiosk(setup)
    device.carry(kiosk)
    kiosk.start()
    kept(kiosk, "clock_blocks_tls", "before the certificate's beginning")
    assert world.ga4.requests() == ()
    device.learn_the_time()
    arrive(kiosk, world.ga4, list(NUMBERS))
    now_us = time.time() * 1e6
    assert all(0 <= now_us - e["timestamp_micros"] < 120e6 for e in world.ga4.events())


# Who answers is trusted, and the answer is none


def answered(kiosk, ga4, fault: Fault, state: str, numbers):
    """A trusted server answers like this; returns the status then. All arrive once it is over."""
    before = kiosk.books().sent
    ga4.fail(fault)
    seen = kept(kiosk, state, handed_in=numbers)
    assert seen["ledger"]["sent"] == kiosk.books().sent == before
    return seen


TAP = '"tap"'  # matches what brings events, and no question for the time

ANSWERS = [
    (Fault("login_page", match=TAP), "login_page"),
    (Fault("redirect", match=TAP, location=f"https://{HOST}/login"), "login_page"),
    (Fault("status", status=511, match=TAP), "login_page"),
    (Fault("body", match=TAP), "misconfigured"),
    (Fault("status", status=407, match=TAP), "offline"),
]


def test_what_a_trusted_gateway_answers_in_its_place_is_no_delivery(kiosk, world):
    """A company's own gateway may have a certificate that the device trusts. One after another."""
    taken = [FIRST]
    for round_, (fault, state) in enumerate(ANSWERS):
        numbers = range(round_ * 50, round_ * 50 + 50)
        answered(kiosk, world.ga4, fault, state, numbers)
        world.ga4.recover()
        taken += numbers
        arrive(kiosk, world.ga4, taken, flush=True)
    followed = {r.path for r in world.ga4.requests()} - {"/mp/collect", PROBE_PATH}
    assert followed == set()


HOUR = 3600
DATE = "Fri, 31 Dec 9999 23:59:59 GMT"
WAITS = [
    (Fault("status", status=401, match=TAP), "misconfigured", 0.9 * HOUR, 1.1 * HOUR),
    (Fault("status", status=403, match=TAP), "misconfigured", 0.9 * HOUR, 1.1 * HOUR),
    (Fault("status", status=404, match=TAP), "misconfigured", 0.9 * HOUR, 1.1 * HOUR),
    (Fault("status", status=429, retry_after="600", match=TAP), "offline", 600, 602),
    (Fault("status", status=503, retry_after="99999999", match=TAP), "offline", HOUR, HOUR + 2),
    (Fault("status", status=503, retry_after=DATE, match=TAP), "offline", HOUR, HOUR + 2),
]


def test_how_long_it_waits_is_the_servers_word_within_reason(kiosk, world):
    """An hour for what a person has to mend, and an hour at most for what a server asks."""
    taken = [FIRST]
    for round_, (fault, state, low, high) in enumerate(WAITS):
        numbers = range(round_ * 10, round_ * 10 + 10)
        seen = answered(kiosk, world.ga4, fault, state, numbers)
        assert low - 15 < seen["streams"][0]["next_try_s"] <= high, fault
        world.ga4.recover()
        taken += numbers
        arrive(kiosk, world.ga4, taken, flush=True)


# A proxy


@pytest.fixture
def proxy(network) -> Iterator[Proxy]:
    with network.far.entered():
        proxy = Proxy(port=PROXY_PORT, target=(WORLD, 443))
    with closing(proxy):
        yield proxy


@pytest.fixture
def behind_proxy(make_kiosk, setup, proxy, network, emulator):
    """A device that no name can be resolved on: its proxy does that."""
    network.serve_names(NO_SUCH_NAME)
    url = f"http://kiosk:{PROXY_PASSWORD}@{WORLD}:{PROXY_PORT}"
    kiosk = make_kiosk(replace(setup, http=f'{setup.http}proxy = "{url}"\n'))
    start_and_deliver(kiosk)
    return kiosk


def test_a_proxy_that_refuses_is_tried_again(behind_proxy, world, proxy):
    proxy.refuse_with = "407 Proxy Authentication Required"
    world.hang_up()
    kept(behind_proxy, "offline", "through the proxy: found answer 407")
    proxy.refuse_with = ""
    arrive(behind_proxy, world.ga4, ALL)
    assert set(proxy.asked) == {f"{HOST}:443"}
    assert PROXY_PASSWORD not in behind_proxy.log


def test_a_proxy_that_is_dead_is_tried_again_and_never_gone_around(
    behind_proxy, world, proxy, network
):
    network.serve_names(IPV4)  # so that it could be
    proxy.close()
    attempts = world.ga4.attempts
    kept(behind_proxy, "offline", "cannot use the proxy")
    assert world.ga4.attempts == attempts
    with network.far.entered():
        again = Proxy(port=PROXY_PORT, target=(WORLD, 443))
    with closing(again):
        arrive(behind_proxy, world.ga4, ALL)
        assert again.asked
    assert PROXY_PASSWORD not in behind_proxy.log


def test_a_proxy_that_shows_a_login_page_in_place_of_a_tunnel_gets_nothing(
    behind_proxy, world, proxy
):
    attempts = world.ga4.attempts
    proxy.refuse_with = "302 Found"
    world.hang_up()
    kept(behind_proxy, "offline", "through the proxy: found answer 302")
    proxy.refuse_with = "200 OK"  # and then no TLS
    until(lambda: "cannot trust" in reason(behind_proxy), lambda: reason(behind_proxy), 40)
    assert world.ga4.attempts == attempts
    proxy.refuse_with = ""
    arrive(behind_proxy, world.ga4, ALL, flush=True)


def reason(kiosk) -> str:
    status = kiosk.status()
    return status["reason"] if status else ""
