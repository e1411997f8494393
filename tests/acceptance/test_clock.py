"""A device without a battery starts in 1970, and yet every event arrives with its true time."""

import json
import ssl
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
import trustme

from agent.emulator import Emulator
from tests.acceptance.device import HOUR, SECOND, Device, Diary, arrived, check_no_future, hand_in
from tests.acceptance.publishers import event, mqtt_program
from tests.waiting import free_port

WITHIN = {"ntp": 0.1, "date": 1.0}  # seconds: 50 ms, and half a second on each side
MINUTE = 60.0


@pytest.fixture
def device(tmp_path):
    return Device(tmp_path)


@pytest.fixture
def emulator(device):
    """The endpoint knows the true time."""
    with Emulator(port=free_port(), clock=device.now) as emulator:
        yield emulator
    assert emulator.bugs == ()


@pytest.fixture
def make_kiosk(make_daemon, setup, device):
    """Makes daemons on the device."""

    def make(**settings):
        daemon = make_daemon(replace(setup, **settings))
        device.carry(daemon)
        return daemon

    return make


@pytest.fixture
def daemon(make_kiosk):
    return make_kiosk()


@pytest.fixture
def diary(device):
    return Diary(device)


def number_of(event):
    return event["params"]["id"]


def send(daemon, name):
    done = daemon.command("send", name)
    assert (done.returncode, done.stderr) == (0, "")


def wait_trusted(daemon, by):
    daemon.wait(lambda status: status["clock"]["by"] == by, flush=True)


def restart(daemon):
    daemon.kill()
    daemon.start()


def dead_letters(daemon):
    """Names and reasons of the dead letters."""
    done = daemon.command("dead", "list", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    return {row["name"]: row["reason"] for row in json.loads(done.stdout)}


# One boot


@pytest.mark.parametrize(
    "story",
    [("ntp", False), ("ntp", True), ("date", False), ("date", True)],
    ids=["ntp", "ntp-killed", "date", "date-killed"],
)
def test_what_was_taken_in_1970_arrives_with_its_true_time(device, daemon, emulator, diary, story):
    """``story``: who tells the time, and whether the agent is killed before."""
    by, killed = story
    emulator.stop()
    with diary.noting("spooled"):
        send(daemon, "spooled")  # nobody takes it yet
    with diary.noting("by_its_own_clock"):
        shown_us = device.shown_us()
    daemon.start()
    daemon.wait_received(1)
    diary.tap(daemon, "posted")
    with diary.noting("sent"):
        send(daemon, "sent")
    if killed:
        restart(daemon)
    hand_in(daemon, {"name": "by_its_own_clock", "timestamp_micros": shown_us})
    diary.tap(daemon, "by_its_own_clock_too", timestamp_micros=device.shown_us())
    assert not daemon.status()["clock"]["trusted"]
    if by == "ntp":
        device.learn_the_time()
        wait_trusted(daemon, "ntp")
    else:
        emulator.start()
        wait_trusted(daemon, "date")
    diary.tap(daemon, "by_its_own_clock_again", timestamp_micros=device.shown_us())
    diary.tap(daemon, "after_the_jump")
    if by == "ntp":
        emulator.start()
    daemon.drained()
    found = diary.check(emulator, within=WITHIN[by])
    sessions = {event["params"]["session_id"] for event in found.values()}
    assert len(sessions) == 1, "one sitting, whatever the wall clock did"
    before, after = diary.moments["spooled"]
    assert before - WITHIN[by] - 1 <= sessions.pop() <= after + WITHIN[by]
    assert all("time_uncertain_s" not in event["params"] for event in found.values())
    assert emulator.stats()["violations"] == {}


@pytest.mark.parametrize("by", ["ntp", "date"])
def test_times_increase_strictly_whatever_is_learnt_between_two_requests(
    device, daemon, emulator, by
):
    """Of a backlog each answer says the time anew, and the next request may know it better."""
    emulator.stop()
    daemon.start()
    for first in range(0, 200, 10):
        hand_in(daemon, *(event(number) for number in range(first, first + 10)))
    if by == "ntp":
        device.learn_the_time()
    emulator.start()
    daemon.drained()
    times = [event["timestamp_micros"] for event in sorted(emulator.events(), key=number_of)]
    backward = [later - earlier for earlier, later in pairwise(times) if later <= earlier]
    assert (len(times), backward) == (200, [])


def test_times_that_a_publisher_says_twice_are_told_apart(device, daemon, emulator):
    """Its clock may know no more than seconds; GA4 orders a client's events by their times."""
    device.learn_the_time()
    daemon.start()
    second_us = (device.shown_us() // SECOND - 60) * SECOND
    for first in (0, 3, 6):
        numbers = range(first, first + 3)
        hand_in(daemon, *({**event(number), "timestamp_micros": second_us} for number in numbers))
    daemon.drained()
    times = [event["timestamp_micros"] for event in sorted(emulator.events(), key=number_of)]
    assert times[0] == pytest.approx(second_us, abs=SECOND)
    assert all(earlier < later for earlier, later in pairwise(times)), times


def test_the_clock_may_be_set_while_the_agent_is_dead(device, daemon, emulator, diary):
    emulator.stop()
    daemon.start()
    diary.tap(daemon, "in_1970")
    with diary.noting("read_in_1970"):
        shown_us = device.shown_us()
    daemon.kill()
    device.learn_the_time()
    daemon.start()
    hand_in(daemon, {"name": "read_in_1970", "timestamp_micros": shown_us})
    diary.tap(daemon, "after_the_jump")
    emulator.start()
    daemon.drained()
    found = diary.check(emulator, within=WITHIN["ntp"])
    assert len({event["params"]["session_id"] for event in found.values()}) == 1


def test_a_session_that_was_sent_keeps_its_id_when_the_time_is_known_better(device, make_kiosk):
    """The endpoint's clock is five seconds ahead; then NTP tells the true time."""
    with Emulator(port=free_port(), clock=lambda: device.now() + 5) as hasty:
        daemon = make_kiosk(endpoint=hasty.url)
        daemon.start()
        hand_in(daemon, {"name": "by_date"})
        daemon.drained()
        daemon.kill()
        device.learn_the_time()
        daemon.start()
        wait_trusted(daemon, "ntp")
        hand_in(daemon, {"name": "by_ntp"})
        daemon.drained()
        found = arrived(hasty)
    now = device.now()
    assert found["by_date"]["params"]["session_id"] == found["by_ntp"]["params"]["session_id"]
    assert found["by_ntp"]["timestamp_micros"] / SECOND == pytest.approx(now, abs=4)


def test_a_wall_clock_that_is_set_wrong_again_changes_nothing(device, daemon, emulator, diary):
    """Once trusted in a boot, trusted for that boot."""
    device.learn_the_time()
    daemon.start()
    wait_trusted(daemon, "ntp")
    emulator.stop()
    diary.tap(daemon, "right")
    device.synchronise(ntp=False)
    device.jump_to(device.now() - 30 * 24 * HOUR)
    diary.tap(daemon, "a_month_behind")
    device.jump_to(device.now() + 24 * HOUR)
    diary.tap(daemon, "a_day_ahead")
    diary.tap(daemon, "by_its_own_clock", timestamp_micros=device.shown_us())
    assert daemon.status()["clock"]["trusted"]
    emulator.start()
    daemon.drained()
    found = diary.check(emulator, within=WITHIN["ntp"])
    assert len({event["params"]["session_id"] for event in found.values()}) == 1


def test_a_time_of_the_future_is_never_sent(device, make_kiosk, broker, emulator):
    """Neither by this device's clock nor by that of somebody else."""
    daemon = make_kiosk(mqtt_port=broker.port)
    device.learn_the_time()
    daemon.start()
    broker.wait_subscribed("kiosk/events")
    before_us = device.now() * SECOND
    ahead_us = int(before_us + 10 * MINUTE * SECOND)
    hand_in(daemon, {"name": "here", "timestamp_micros": ahead_us})
    with mqtt_program(broker.port) as program:
        program.publish_text(json.dumps({"name": "elsewhere", "timestamp_micros": ahead_us}))
        daemon.wait_received(2)
    daemon.drained()
    check_no_future(emulator, within=WITHIN["ntp"])
    assert all(event["timestamp_micros"] >= before_us for event in arrived(emulator).values())


# Boots


def test_a_boot_that_learnt_the_time_is_right_in_the_next_boots_too(
    device, daemon, emulator, diary
):
    emulator.stop()
    daemon.start()
    diary.tap(daemon, "in_1970")
    device.learn_the_time()
    wait_trusted(daemon, "ntp")
    diary.tap(daemon, "after_the_jump")
    assert daemon.end() == 0
    device.power_off(3 * HOUR)
    with diary.noting("spooled_in_1970"):
        send(daemon, "spooled_in_1970")
    daemon.start()
    diary.tap(daemon, "in_1970_again")
    device.learn_the_time()
    wait_trusted(daemon, "ntp")
    emulator.start()
    daemon.drained()
    found = diary.check(emulator, within=WITHIN["ntp"])
    sessions = [found[name]["params"]["session_id"] for name in diary.moments]
    assert sessions[0] == sessions[1] < sessions[2] == sessions[3], "a sitting for each boot"


@pytest.mark.parametrize(
    "story",
    [(10, 20, True), (5 * MINUTE, 15 * MINUTE, True), (5 * MINUTE, 15 * MINUTE, False)],
    ids=["certain", "uncertain", "uncertain-unsaid"],
)
def test_a_boot_that_never_learnt_the_time_is_bounded_by_its_neighbours(
    device, make_kiosk, emulator, diary, story
):
    """``story``: seconds without power before and after it; whether the stream wants the doubt."""
    off_before_s, off_after_s, said = story
    daemon = make_kiosk(stream="" if said else "send_time_uncertain = false")
    emulator.stop()
    for name, off_s in (("first", off_before_s), ("lost", off_after_s), ("last", 0)):
        if name != "lost":
            device.learn_the_time()
        daemon.start()
        diary.tap(daemon, name)
        if name != "last":
            daemon.kill()
            device.power_off(off_s)
    emulator.start()
    daemon.drained()
    doubt_s = (off_before_s + off_after_s) / 2
    elapsed_s = diary.moments["last"][1] - diary.moments["first"][0] - 2 * doubt_s
    found = diary.check(emulator, within=doubt_s + elapsed_s)
    told = {name: event["params"].get("time_uncertain_s") for name, event in found.items()}
    assert told.pop("lost") == (
        pytest.approx(doubt_s, abs=elapsed_s + 1) if said and doubt_s > MINUTE else None
    )
    assert told == {"first": None, "last": None}
    sessions = {name: event["params"]["session_id"] for name, event in found.items()}
    assert sessions["first"] < sessions["lost"] < sessions["last"]
    assert abs(sessions["lost"] - found["lost"]["timestamp_micros"] / SECOND) <= 1
    assert emulator.stats()["violations"] == {}


def test_a_time_that_may_be_half_a_day_off_is_not_sent(device, daemon, emulator, diary):
    """Nor one of which nothing is known: the very first boot of a device, without network."""
    emulator.stop()
    daemon.start()
    hand_in(daemon, {"name": "out_of_the_box"})
    for name, off_h in (("first", 1), ("lost", 10), ("last", 20)):
        daemon.kill()
        device.power_off(off_h * HOUR)
        if name != "lost":
            device.learn_the_time()
        daemon.start()
        if name == "lost":
            hand_in(daemon, {"name": "lost"})
        else:
            diary.tap(daemon, name)
    emulator.start()
    daemon.drained()
    diary.check(emulator, within=WITHIN["ntp"])
    assert dead_letters(daemon) == {"out_of_the_box": "time_unknown", "lost": "time_unknown"}
    assert daemon.books().dead == 2


# Late events

LATE_H = 80


@pytest.fixture
def late_event(device, make_kiosk, emulator):
    """A daemon that has an event of 80 hours ago and one of now; and when the old one happened."""

    def make(late):
        daemon = make_kiosk(stream=f'late = "{late}"')
        emulator.stop()
        device.learn_the_time()
        daemon.start()
        hand_in(daemon, {"name": "old"})
        happened = device.now()
        daemon.kill()
        device.power_off(LATE_H * HOUR)
        device.learn_the_time()
        daemon.start()
        hand_in(daemon, {"name": "new"})
        emulator.start()
        daemon.drained()
        return daemon, happened

    return make


def test_an_event_that_is_late_is_a_dead_letter(late_event, emulator):
    daemon, _ = late_event("dead")
    assert arrived(emulator).keys() == {"new"}
    assert dead_letters(daemon) == {"old": "expired"}
    assert emulator.stats()["moved"] == 0


def test_an_event_that_is_late_is_restamped_if_the_stream_says_so(late_event, emulator, device):
    daemon, happened = late_event("restamp")
    old = arrived(emulator)["old"]
    params = old["params"]
    assert old["timestamp_micros"] / SECOND == pytest.approx(device.now(), abs=20)
    said = datetime.fromisoformat(params["original_time"]).timestamp()
    assert said == pytest.approx(happened, abs=1)
    assert params["late_h"] == LATE_H
    assert params.keys() == {"original_time", "late_h", "event_id"}, "it is of no session of now"
    assert emulator.stats()["moved"] == 0
    assert emulator.stats()["violations"] == {}
    assert daemon.books().noted == {"left_after_24h": 1, "left_after_48h": 1}


def test_an_event_that_is_late_is_sent_as_it_is_if_the_stream_says_so(late_event, emulator):
    daemon, happened = late_event("send")
    old = arrived(emulator)["old"]
    assert old["timestamp_micros"] / SECOND == pytest.approx(happened, abs=1)
    assert old["params"]["session_id"] == pytest.approx(happened, abs=2)
    assert emulator.stats()["moved"] == 1, "GA4 does that in silence"
    assert daemon.books().noted == {"left_after_24h": 1, "left_after_48h": 1}


def test_the_time_of_a_publisher_elsewhere_is_taken_at_its_word(
    device, make_kiosk, broker, emulator
):
    """While the clock shows 1970 as well: it says nothing of the other's."""
    daemon = make_kiosk(mqtt_port=broker.port)
    emulator.stop()
    daemon.start()
    broker.wait_subscribed("kiosk/events")
    ages_h = {"fresh": 1, "old": LATE_H}
    times = {name: int((device.now() - age * HOUR) * SECOND) for name, age in ages_h.items()}
    with mqtt_program(broker.port) as program:
        for name, time_us in times.items():
            program.publish_text(json.dumps({"name": name, "timestamp_micros": time_us}))
        daemon.wait_received(2)
    device.learn_the_time()
    emulator.start()
    daemon.drained()
    sent = {name: event["timestamp_micros"] for name, event in arrived(emulator).items()}
    assert sent == {"fresh": times["fresh"]}
    assert dead_letters(daemon) == {"old": "expired"}


# TLS


@pytest.fixture
def secure_kiosk(device, make_kiosk, tmp_path):
    """A daemon, and its endpoint with a certificate of yesterday."""
    begin = datetime.now(UTC) - timedelta(days=1)
    authority, file = trustme.CA(), tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(file)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(
        "127.0.0.1", not_before=begin, not_after=begin + timedelta(days=10)
    ).configure_cert(context)
    with Emulator(port=free_port(), clock=device.now, tls=context) as emulator:
        yield make_kiosk(endpoint=emulator.url, http=f'[network]\nca_file = "{file}"'), emulator
    assert emulator.bugs == ()


def test_a_clock_that_precedes_the_certificate_is_named_with_its_cure(device, secure_kiosk, diary):
    daemon, emulator = secure_kiosk
    daemon.start()
    diary.tap(daemon, "in_1970")
    daemon.wait(lambda status: status["state"] == "clock_blocks_tls")
    said = daemon.command("status").stdout
    assert "clock_blocks_tls" in said
    assert "certificate is not yet valid; set the clock" in said
    assert emulator.attempts == 0
    device.learn_the_time()
    # Without being urged: nobody is there who would.
    daemon.wait(lambda status: status["queue"]["events"] == 0)
    assert daemon.status()["state"] == "ok"
    diary.check(emulator, within=WITHIN["ntp"])
