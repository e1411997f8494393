"""The soak as a test, and its oracle: given a faked history it must see what is wrong in it."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.daemon import ROOT
from tests.system.oracle import SPAN, Book, Boot, Chronicle, Fate, Oracle, Trouble, proof
from tests.system.soak_faults import NETWORK, WEIGHTS, plan

SEED = 7
AT = 1_800_000_000.0  # seconds since 1970 at which the faked histories begin
AT_MOST = 100
MINUTES = float(os.environ.get("GA4_AGENT_SOAK_MINUTES", "1"))


def soak(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tests/system/soak.py"), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.timeout(MINUTES * 60 + 600)
def test_a_soak_under_random_faults_ends_as_promised():
    done = soak("--minutes", str(MINUTES))
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout)  # with -s, or when it fails


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_queue_that_does_not_wait_for_the_disk_does_not_pass_a_soak():
    """The soak can fail: with synchronous=OFF power cuts lose what was acknowledged."""
    careless = str(ROOT / "tests/system/careless_agent.py")
    done = soak("--minutes", "0.5", "--seed", "1", "--only", "power_cut", "--program", careless)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "VIOLATIONS, seed 1" in done.stdout
    assert "acknowledged events are neither delivered nor dead" in done.stdout


def test_a_seed_always_draws_the_same_faults():
    kinds = list(WEIGHTS)
    assert plan(SEED, 10, kinds) == plan(SEED, 10, kinds)
    assert plan(SEED, 10, kinds) != plan(SEED + 1, 10, kinds)


def test_an_hour_has_faults_of_every_kind_and_each_ends():
    drawn = plan(SEED, 60, list(WEIGHTS))
    assert {each.kind for each in drawn} == set(WEIGHTS)
    assert all(each.at + each.seconds <= 60 * 60 for each in drawn)
    assert all((each.fault is not None) == (each.kind in NETWORK) for each in drawn)


# -- the oracle ---------------------------------------------------------------------------------


@dataclass
class Story:
    """A run in which nothing went wrong: ten events were taken, and arrived a second later."""

    folder: Path
    book: Book
    chronicle: Chronicle
    requests: list[dict[str, Any]] = field(default_factory=list)
    dead: list[dict[str, Any]] = field(default_factory=list)
    ledger: dict[str, Any] = field(default_factory=dict)

    def open(self, at: float, fate: Fate = Fate.TAKEN) -> int:
        number = self.book.open(at)
        self.book.settle(number, fate, at + 0.1)
        return number

    def deliver(self, number: int, at: float, **more: Any) -> None:
        """A request that the local GA4 counted. ``more``: what is not as usual in it."""
        request = {"at": at, "path": "/mp/collect", "answered": 204, "counted": True}
        request |= {name: more.pop(name) for name in list(more) if name in request}
        params = {"id": number, "proof": proof(number, SEED), "session_id": 1}
        params |= {"event_id": f"e{number}"} | more.pop("params", {})
        event = {"name": "tap", "timestamp_micros": (at - 1) * 1e6, "params": params} | more
        self.requests.append(request | {"body": {"events": [event]}})

    def sent(self, number: int) -> None:
        self.ledger["sent"] += number
        self.ledger["received"] += number

    def judged(self) -> set[str]:
        """The rules that the oracle finds broken."""
        record = self.folder / "record.ndjson"
        record.write_text("".join(f"{json.dumps(request)}\n" for request in self.requests))
        oracle = Oracle(books=[self.book], chronicle=self.chronicle, seed=SEED, at_most=AT_MOST)
        oracle.read_record(record)
        oracle.read_dead(self.dead)
        oracle.read_status({"ledger": self.ledger})
        return {violation.rule for violation in oracle.violations()}


@pytest.fixture
def story(tmp_path):
    return told(tmp_path, Book("taps", 3, clock="stamped", session=True))


def told(folder: Path, book: Book) -> Story:
    chronicle = Chronicle(boots=[Boot(AT - 100, trusted_at=AT - 90)])
    story = Story(folder, book, chronicle)
    story.ledger = {"received": 10, "sent": 10, "queued": 0, "dead": 0, "dropped": {}}
    for second in range(10):
        number = story.open(AT + second)
        story.deliver(number, AT + second + 1)
    return story


def last(story: Story) -> int:
    return story.book.first + len(story.book) - 1


def test_a_run_without_fault_has_no_violation(story):
    assert story.judged() == set()


def test_an_acknowledged_event_that_is_nowhere_is_missing(story):
    story.open(AT + 20)
    assert story.judged() == {"missing"}


def test_what_nobody_was_told_to_be_taken_may_be_missing(story):
    for fate in (Fate.OPEN, Fate.REFUSED, Fate.UNSENT, Fate.TURNED_AWAY, Fate.DOUBTFUL):
        story.open(AT + 20, fate)
    assert story.judged() == set()


def test_an_event_that_was_counted_as_dropped_is_not_missing(story):
    story.open(AT + 20)
    story.ledger |= {"received": 11, "dropped": {"evicted": 1}}
    assert story.judged() == set()


def test_more_missing_ones_than_were_counted_as_dropped_are_missing(story):
    story.open(AT + 20)
    story.open(AT + 21)
    story.ledger |= {"received": 11, "dropped": {"evicted": 1}}
    assert story.judged() == {"missing"}


def test_a_dead_letter_is_not_missing(story):
    number = story.open(AT + 20)
    story.dead.append({"reason": "time_unknown", "params": {"id": number}, "event_id": "e"})
    story.ledger |= {"received": 11, "dead": 1}
    assert story.judged() == set()


def test_an_event_that_the_endpoint_took_and_the_agent_buried_as_refused_is_found(story):
    number = story.open(AT + 20)
    story.dead.append({"reason": "refused_400", "params": {"id": number}, "event_id": "e"})
    story.ledger |= {"received": 11, "dead": 1}
    assert story.judged() == {"buried"}


@pytest.mark.parametrize(
    "params", [{"id": 99 * SPAN}, {"id": 3 * SPAN + 10}, {"id": None}, {"proof": 0}]
)
def test_what_nobody_sent_is_invented(story, params):
    story.deliver(last(story), AT + 20, params=params)
    story.sent(1)
    assert "invented" in story.judged()


@pytest.mark.parametrize("fate", [Fate.REFUSED, Fate.UNSENT])
def test_what_was_refused_or_never_left_must_not_arrive(story, fate):
    story.deliver(story.open(AT + 20, fate), AT + 21)
    story.sent(1)
    assert story.judged() == {"refused"}


def test_an_event_that_is_sent_twice_without_a_reason_is_doubled(story):
    story.deliver(last(story), AT + 11)
    assert story.judged() == {"doubled"}


def test_an_event_that_is_taken_twice_is_doubled(story):
    story.deliver(last(story), AT + 10, params={"event_id": "another"})
    story.sent(1)
    assert story.judged() == {"doubled"}


def test_after_an_unclear_answer_an_event_may_be_sent_again(story):
    number = story.open(AT + 20)
    story.deliver(number, AT + 21, answered="cut_after")
    story.deliver(number, AT + 24, timestamp_micros=(AT + 20) * 1e6)
    story.sent(1)
    assert story.judged() == set()


@pytest.mark.parametrize(("at", "expected"), [(AT + 13, set()), (AT + 30, {"doubled"})])
def test_only_what_was_in_flight_at_a_kill_may_be_sent_again(story, at, expected):
    story.chronicle.kills.append((at, at + 0.1))
    story.deliver(last(story), AT + 40, timestamp_micros=(AT + 9) * 1e6)
    assert story.judged() == expected


def test_a_kill_repeats_no_more_than_was_in_flight(story):
    story.chronicle.kills.append((AT + 20.5, AT + 20.6))
    for _ in range(AT_MOST + 1):
        number = story.open(AT + 20)
        story.deliver(number, AT + 20.4, timestamp_micros=(AT + 20) * 1e6)
        story.deliver(number, AT + 22, timestamp_micros=(AT + 20) * 1e6)
    story.sent(AT_MOST + 1)
    assert story.judged() == {"doubled"}
    del story.requests[-1]
    assert story.judged() == set()


def test_what_could_not_be_recorded_on_a_slow_disk_may_be_sent_again_after_a_kill(story):
    story.chronicle.kills.append((AT + 30, AT + 30.1))
    story.deliver(last(story), AT + 40, timestamp_micros=(AT + 9) * 1e6)
    assert story.judged() == {"doubled"}
    slow = Trouble(kind="slow_disk", began=AT + 10, ended=AT + 30)
    story.chronicle.troubles.append(slow)
    assert story.judged() == set()


@pytest.mark.parametrize(("redelivered", "expected"), [(True, set()), (False, {"doubled"})])
def test_a_killed_broker_may_hand_out_again_what_names_no_id(tmp_path, redelivered, expected):
    story = told(tmp_path, Book("mqtt", 3, clock="later", redelivered=redelivered))
    kill = Trouble(kind="broker_kill", began=AT + 10, ended=AT + 12)
    story.chronicle.troubles.append(kill)
    story.deliver(last(story), AT + 13, params={"event_id": "another"})
    story.sent(1)
    assert story.judged() == expected


@pytest.mark.parametrize("off", [-3.0, 3.0])
def test_a_wrong_time_is_found(story, off):
    number = story.open(AT + 20)
    story.deliver(number, AT + 30, timestamp_micros=(AT + 20 + off) * 1e6)
    story.sent(1)
    assert story.judged() == {"time"}


def test_in_a_boot_that_never_learnt_the_time_only_the_future_is_wrong(story):
    story.chronicle.boots.append(Boot(AT + 15))
    for second, said in ((20, AT), (21, AT + 29), (22, AT + 40)):
        number = story.open(AT + second)
        story.deliver(number, AT + 30, timestamp_micros=said * 1e6)
    story.sent(3)
    assert story.judged() == {"time"}
    del story.requests[-1]
    story.book.settle(number, Fate.OPEN)
    story.sent(-1)
    assert story.judged() == set()


def test_two_session_ids_in_one_sitting_are_found(story):
    story.deliver(story.open(AT + 20), AT + 21, params={"session_id": 2})
    story.sent(1)
    assert story.judged() == {"session"}
    story.chronicle.boots.append(Boot(AT + 15, trusted_at=AT + 16))
    assert story.judged() == set()


@pytest.mark.parametrize(
    "wrong",
    [
        {"received": 11}, {"sent": 9, "received": 9}, {"sent": 11, "received": 11},
        {"dead": 1, "received": 11}, {"queued": 1, "received": 11},
    ],
)  # fmt: skip
def test_a_ledger_that_does_not_agree_with_what_arrived_is_found(story, wrong):
    story.ledger |= wrong
    assert story.judged() == {"ledger"}


def test_an_event_that_the_endpoint_refuses_must_be_a_dead_letter(tmp_path):
    book = Book("unwanted", 3, ends="refused")
    story = Story(tmp_path, book, Chronicle(boots=[Boot(AT)]))
    story.ledger = {"received": 1, "sent": 0, "queued": 0, "dead": 1, "dropped": {}}
    number = story.open(AT + 1)
    story.dead.append({"reason": "refused_400", "params": {"id": number}, "event_id": "e"})
    assert story.judged() == set()
    story.dead.clear()
    story.ledger |= {"dead": 0, "sent": 1}
    story.deliver(number, AT + 2)
    assert story.judged() == {"refused"}


def test_a_message_that_is_no_event_must_be_a_dead_letter(tmp_path):
    story = Story(tmp_path, Book("noise", 3, ends="raw"), Chronicle(boots=[Boot(AT)]))
    story.ledger = {"received": 1, "sent": 0, "queued": 0, "dead": 1, "dropped": {}}
    story.open(AT + 1)
    story.dead.append({"reason": "malformed", "raw": "bnVtYmVyPTMwMDAwMDAwMCB4"})
    assert story.judged() == set()
    story.dead[0]["raw"] = ""
    assert story.judged() == {"missing"}
