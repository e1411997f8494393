"""What was sent without a clear answer: sent again, or lost and counted, as the stream says."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from agent.delivery.outlet import NEVER
from agent.delivery.shipper import STORAGE_WAIT
from agent.delivery.transport import Transport
from agent.emulator import Fault
from agent.queue.event_queue import EventQueue
from agent.urequests import Client
from tests.delivery.stage import CAP, ship_until_idle, stream

ROOT = Path(__file__).parents[2]
UNCLEAR = [
    Fault("cut_after"),
    Fault("cut_half"),
    Fault("status", status=500),
    Fault("status", status=502),
    Fault("status", status=503, retry_after="30"),
    Fault("body"),
]
NOT_DONE = [
    *(Fault("status", status=status) for status in (401, 403, 404, 405, 408, 425, 429, 511)),
    Fault("redirect"),
    Fault("login_page"),
]


def shown(fault):
    return f"{fault.kind} {fault.status}" if fault.kind == "status" else fault.kind


def losing(stage, **settings):
    return stage.shipper(stream(stage.emulator.url, on_uncertain="lose"), **settings)


def marked(stage):
    """The names of the events that are on record as being sent."""
    sql = f"SELECT CAST(data AS BLOB) FROM {stage.queue._table} WHERE sending = 1"
    return len(stage.queue._read(sql))


def dropped(stage):
    return dict(stage.queue.books.dropped)


@pytest.mark.parametrize("fault", UNCLEAR, ids=shown)
def test_after_an_unclear_answer_events_that_must_not_count_twice_are_lost_and_counted(
    stage, fault
):
    stage.put("e0", "e1", "e2")
    shipper = losing(stage)
    stage.emulator.fail(fault)
    shipper.ship_once()
    assert dropped(stage) == {"uncertain": 3}
    assert stage.queue.books.queued == 0
    stage.emulator.recover()
    stage.put("e3")
    stage.time.pass_(2 * 3600)
    ship_until_idle(shipper)
    assert stage.emulator.requests()[-1].events[0]["name"] == "e3"
    assert len(stage.emulator.requests()) == 2


@pytest.mark.parametrize("fault", NOT_DONE, ids=shown)
def test_after_a_clear_refusal_of_the_request_nothing_is_lost(stage, fault):
    stage.put("e0", "e1", "e2")
    shipper = losing(stage)
    stage.emulator.fail(fault)
    shipper.ship_once()
    assert (dropped(stage), marked(stage)) == ({}, 0)
    stage.emulator.recover()
    stage.time.pass_(2 * 3600)
    ship_until_idle(shipper)
    assert stage.arrived == ["e0", "e1", "e2"]


def test_what_surely_was_not_sent_is_not_lost(stage):
    stage.put("e0")
    shipper = losing(stage)
    stage.emulator.stop()
    shipper.ship_once()
    assert (dropped(stage), marked(stage)) == ({}, 0)
    stage.emulator.start()
    stage.time.pass_(5)
    ship_until_idle(shipper)
    assert stage.arrived == ["e0"]


@pytest.mark.parametrize("fault", UNCLEAR, ids=shown)
def test_other_streams_send_again_after_an_unclear_answer(stage, fault):
    stage.put("e0", "e1")
    shipper = stage.shipper()
    stage.emulator.fail(fault)
    shipper.ship_once()
    assert (dropped(stage), marked(stage)) == ({}, 0)
    stage.emulator.recover()
    stage.time.pass_(2 * 3600)
    ship_until_idle(shipper)
    assert stage.arrived[-2:] == ["e0", "e1"]


def test_a_loss_is_said_with_its_number_and_nothing_else(stage, caplog):
    stage.put("e0", "e1", client="visitor-7.1")
    stage.emulator.fail(Fault("cut_after"))
    losing(stage).ship_once()
    assert "stream main: uncertain: 2 events" in caplog.text
    assert "visitor-7" not in caplog.text


class Watching(Transport):
    """Notes how many events are on record as being sent while each request is under way."""

    stage = None
    seen = ()

    def post(self, request):
        self.seen = (*self.seen, marked(self.stage))
        return super().post(request)


@pytest.fixture
def watching(stage):
    transport = Watching(client=lambda: Client(deadline=5.0))
    transport.stage = stage
    yield transport
    transport.close()


def test_the_mark_is_on_record_before_the_post_and_gone_with_the_event(stage, watching):
    stage.put(*(f"e{number}" for number in range(30)))
    ship_until_idle(losing(stage, transport=watching))
    assert watching.seen == (25, 5)
    assert (marked(stage), stage.queue.books.sent) == (0, 30)


def test_streams_that_do_not_ask_for_it_pay_for_no_mark(stage, watching):
    stage.put("e0")
    ship_until_idle(stage.shipper(transport=watching))
    assert watching.seen == (0,)


def test_the_probe_marks_nothing(stage, watching):
    stage.present.is_trusted = False
    stage.put("e0")
    ship_until_idle(losing(stage, transport=watching))
    assert watching.seen == (0, 1)


def test_a_bisection_marks_exactly_what_is_under_way(stage, watching):
    stage.put("bad", "e1", "e2", "e3")
    stage.emulator.fail(Fault("status", status=400, match='"bad'))
    ship_until_idle(losing(stage, transport=watching))
    assert watching.seen == (4, 2, 1, 1, 2)
    assert Counter(stage.arrived) == Counter(["e1", "e2", "e3"])
    assert stage.dead == {"refused_400": 1}
    assert (dropped(stage), marked(stage)) == ({}, 0)


def test_trouble_within_a_bisection_loses_only_what_was_under_way(stage):
    stage.put("bad", "e1", "e2", "e3")
    stage.emulator.fail(Fault("status", status=400, match='"e3'), Fault("cut_after"))
    losing(stage).ship_once()
    assert dropped(stage) == {"uncertain": 2}
    assert (stage.queue.ready("main"), marked(stage)) == (2, 0)


# A disk that refuses


def test_without_the_mark_on_record_nothing_leaves_and_nothing_is_lost(stage):
    stage.put("e0")
    shipper = losing(stage)
    stage.queue.refusing = True
    shipper.ship_once()
    assert stage.emulator.attempts == 0
    [report] = shipper.reports()
    assert (report.state, "disk" in report.reason) == ("offline", True)
    stage.queue.refusing = False
    stage.time.pass_(5)
    ship_until_idle(shipper)
    assert stage.arrived == ["e0"]


class Refusing(Watching):
    """When its first request is answered the disk begins to refuse."""

    def post(self, request):
        exchange = super().post(request)
        self.stage.queue.refusing = len(self.seen) == 1
        return exchange


@pytest.fixture
def refusing(stage):
    transport = Refusing(client=lambda: Client(deadline=5.0))
    transport.stage = stage
    yield transport
    transport.close()


def test_a_loss_that_the_disk_refuses_is_recorded_later_and_nothing_is_sent_meanwhile(
    stage, refusing
):
    stage.put("e0")
    stage.emulator.fail(Fault("cut_after", times=1))
    shipper = losing(stage, transport=refusing)
    shipper.ship_once()
    stage.time.pass_(STORAGE_WAIT)
    assert shipper.ship_once() == STORAGE_WAIT
    stage.queue.refusing = False
    stage.time.pass_(STORAGE_WAIT)
    assert ship_until_idle(shipper) == NEVER
    assert (stage.arrived, dropped(stage)) == (["e0"], {"uncertain": 1})


def test_a_mark_that_cannot_be_taken_off_stops_nothing(stage, refusing):
    stage.put("e0")
    stage.emulator.fail(Fault("status", status=429, times=1))
    shipper = losing(stage, transport=refusing)
    shipper.ship_once()
    stage.queue.refusing = False
    stage.time.pass_(5)
    ship_until_idle(shipper)
    assert stage.arrived == ["e0"]
    assert (dropped(stage), stage.queue.books.sent) == ({}, 1)


# Killed between the server's answer and the acknowledgement

KILLED = """
import os, signal, sys
from pathlib import Path
from types import SimpleNamespace
from agent.delivery.transport import Transport
from agent.urequests import Client
from tests.delivery.stage import CAP, Stage, TestQueue, stream

directory, url, on_uncertain, moment = Path(sys.argv[1]), *sys.argv[2:]

class Deadly(Transport):
    def post(self, request):
        if moment == "answered":
            super().post(request)
        os.kill(os.getpid(), signal.SIGKILL)

queue = TestQueue.open(directory, max_bytes=CAP)
stage = Stage(emulator=SimpleNamespace(url=url), queue=queue, directory=directory)
stage.put("e0", "e1", "e2")
transport = Deadly(client=lambda: Client(deadline=5.0))
stage.shipper(stream(url, on_uncertain=on_uncertain), transport=transport).ship_once()
"""


def kill(tmp_path, url, *, on_uncertain, moment):
    """Let a process take three events, and kill it while it delivers them; its queue."""
    directory = tmp_path / "killed"
    directory.mkdir()
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, str(directory), url, on_uncertain, moment],
        cwd=ROOT,
        check=False,
        timeout=30,
    )
    assert ended.returncode == -9
    return EventQueue.open(directory, max_bytes=CAP)


@pytest.mark.parametrize(("on_uncertain", "times"), [("repeat", 2), ("lose", 1)])
def test_killed_after_the_answer_an_event_is_repeated_or_not_as_the_stream_says(
    stage, tmp_path, on_uncertain, times
):
    queue = kill(tmp_path, stage.emulator.url, on_uncertain=on_uncertain, moment="answered")
    stage.queue, before = queue, stage.queue
    ship_until_idle(stage.shipper(stream(stage.emulator.url, on_uncertain=on_uncertain)))
    stage.queue = before
    books = queue.books
    queue.close()
    assert Counter(stage.arrived) == dict.fromkeys(("e0", "e1", "e2"), times)
    lost = {"uncertain": 3} if on_uncertain == "lose" else {}
    assert (dict(books.dropped), books.queued, books.balanced) == (lost, 0, True)


@pytest.mark.parametrize(("on_uncertain", "arrived"), [("repeat", 3), ("lose", 0)])
def test_killed_with_the_mark_on_record_nobody_knows_whether_it_was_sent(
    stage, tmp_path, on_uncertain, arrived
):
    queue = kill(tmp_path, stage.emulator.url, on_uncertain=on_uncertain, moment="before")
    stage.queue, before = queue, stage.queue
    ship_until_idle(stage.shipper(stream(stage.emulator.url, on_uncertain=on_uncertain)))
    stage.queue = before
    books = queue.books
    queue.close()
    assert len(stage.arrived) == arrived
    assert sum(books.dropped.values()) == 3 - arrived
    assert books.balanced
