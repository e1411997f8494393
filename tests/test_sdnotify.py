"""What systemd is told, on a real socket; and nothing where there is none."""

import os
import socket

import pytest

from agent.sdnotify import Notifier, watchdog_s


@pytest.fixture
def listener():
    """A datagram socket at an address; "@" for one in the abstract namespace."""
    made = []

    def listen(address):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        sock.settimeout(5)
        sock.bind("\0" + address[1:] if address[0] == "@" else address)
        made.append(sock)
        return sock

    yield listen
    for sock in made:
        sock.close()


def told(sock):
    return sock.recv(4096).decode()


def test_it_tells_the_socket_that_systemd_named(tmp_path, listener):
    path = str(tmp_path / "notify")
    sock = listener(path)
    Notifier(environ={"NOTIFY_SOCKET": path}).tell(READY=1)
    assert told(sock) == "READY=1"


def test_an_address_with_an_at_sign_is_an_abstract_one(listener):
    address = f"@ga4-agent-test-{os.getpid()}"
    sock = listener(address)
    Notifier(environ={"NOTIFY_SOCKET": address}).tell(WATCHDOG=1)
    assert told(sock) == "WATCHDOG=1"


def test_several_assignments_go_in_one_message_a_line_each(tmp_path, listener):
    path = str(tmp_path / "notify")
    sock = listener(path)
    Notifier(environ={"NOTIFY_SOCKET": path}).tell(RELOADING=1, MONOTONIC_USEC=17, STATUS="é ok")
    assert told(sock).splitlines() == ["RELOADING=1", "MONOTONIC_USEC=17", "STATUS=é ok"]


def test_each_message_stands_for_itself(tmp_path, listener):
    path = str(tmp_path / "notify")
    sock = listener(path)
    notifier = Notifier(environ={"NOTIFY_SOCKET": path})
    notifier.tell(READY=1)
    notifier.tell(STOPPING=1)
    assert [told(sock), told(sock)] == ["READY=1", "STOPPING=1"]


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}])
def test_without_systemd_it_is_silent(environ, listener, tmp_path):
    sock = listener(str(tmp_path / "notify"))
    sock.setblocking(False)
    Notifier(environ=environ).tell(READY=1)
    with pytest.raises(BlockingIOError):
        sock.recv(10)


@pytest.mark.parametrize("left", ["nothing", "a file", "a closed socket"])
def test_a_deaf_systemd_is_no_reason_to_stop(tmp_path, listener, left):
    path = tmp_path / "notify"
    if left == "a file":
        path.touch()
    if left == "a closed socket":
        listener(str(path)).close()
    Notifier(environ={"NOTIFY_SOCKET": str(path)}).tell(READY=1)
    assert path.exists() == (left != "nothing")


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "1500000", "WATCHDOG_PID": "77"}, 1.5),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "78"}, None),
        ({"WATCHDOG_PID": "77"}, None),
        ({"WATCHDOG_USEC": ""}, None),
        ({"WATCHDOG_USEC": "-1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_is_fed_only_if_systemd_asks_this_process(environ, seconds):
    assert watchdog_s(environ, 77) == seconds
