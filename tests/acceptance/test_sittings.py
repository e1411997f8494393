"""A kiosk's sittings: who taps within two minutes is the same visitor, whatever the device does.

Time passes on a device whose clocks the test sets, so that nobody has to wait for it.
"""

import json
from dataclasses import replace

import pytest

from agent.emulator import Emulator
from tests.acceptance.device import HOUR, Device, arrived, hand_in
from tests.acceptance.publishers import post
from tests.waiting import free_port

TIMEOUT = 120  # seconds
KIOSK = f'[session]\ntimeout = "{TIMEOUT} s"'
SITTING = f'{KIOSK}\n\n[device]\nvisitor = "sitting"'
AWHILE = 10.0  # seconds that starting a daemon and posting may really take


@pytest.fixture
def device(tmp_path):
    """A device that has learnt the time."""
    device = Device(tmp_path)
    device.learn_the_time()
    return device


@pytest.fixture
def emulator(device):
    with Emulator(port=free_port(), clock=device.now) as emulator:
        yield emulator
    assert emulator.bugs == ()
    assert emulator.stats()["violations"] == {}


@pytest.fixture
def make_kiosk(make_daemon, device, setup):
    """Starts daemons on the device."""

    def make(tables):
        daemon = make_daemon(replace(setup, http=tables))
        device.carry(daemon)
        daemon.start()
        return daemon

    return make


@pytest.fixture
def kiosk(make_kiosk):
    return make_kiosk(KIOSK)


def tap(daemon, name, **event):
    hand_in(daemon, {"name": name, **event})


def restart(daemon):
    """Kill it when nothing is in the air: else that would come twice, and rightly so."""
    daemon.drained()
    daemon.kill()
    daemon.start()


def sent(daemon, emulator):
    """The params of all events, by their names, once they have arrived."""
    daemon.drained()
    return {name: event["params"] for name, event in arrived(emulator).items()}


def sessions(daemon, emulator):
    """The session ids of all events, by their names, once they have arrived."""
    return {name: params.get("session_id") for name, params in sent(daemon, emulator).items()}


def clients(daemon, emulator):
    """The client ids of all events, by their names, once they have arrived."""
    daemon.drained()
    bodies = [request.body for request in emulator.requests() if request.counted]
    return {event["name"]: body["client_id"] for body in bodies for event in body["events"]}


# What a sitting is


def test_a_pause_longer_than_the_timeout_begins_a_new_sitting(device, kiosk, emulator):
    began = device.now()
    tap(kiosk, "a1")
    device.pass_time(TIMEOUT - AWHILE)
    tap(kiosk, "a2")
    device.pass_time(TIMEOUT - AWHILE)
    tap(kiosk, "a3")
    device.pass_time(TIMEOUT + 1)
    began_again = device.now()
    tap(kiosk, "b1")
    tap(kiosk, "b2")
    found = sessions(kiosk, emulator)
    assert found["a1"] == found["a2"] == found["a3"] == pytest.approx(began, abs=2)
    assert found["b1"] == found["b2"] == pytest.approx(began_again, abs=2)
    assert found["a1"] < found["b1"]


def test_the_engagement_of_a_sitting_is_the_time_that_somebody_was_there(device, kiosk, emulator):
    began = device.now()
    for name, pause in (("a1", 0), ("a2", 30), ("a3", 5), ("a4", 0)):
        device.pass_time(pause)
        tap(kiosk, name)
    ended = device.now()
    device.pass_time(TIMEOUT + 1)
    tap(kiosk, "b1")
    found = {name: p["engagement_time_msec"] for name, p in sent(kiosk, emulator).items()}
    assert found["a1"] == found["b1"] == 1, "nobody knows how long they looked before"
    assert 30_000 <= found["a2"] < 30_000 + AWHILE * 1000
    assert 5_000 <= found["a3"] < 5_000 + AWHILE * 1000
    assert found["a4"] >= 1
    together = sum(found[name] for name in ("a1", "a2", "a3", "a4"))
    assert 35_000 <= together <= (ended - began) * 1000


def test_a_program_may_say_when_a_sitting_begins_and_ends(device, kiosk, emulator):
    tap(kiosk, "a1")
    tap(kiosk, "a2")
    tap(kiosk, "b1", session="start")
    device.pass_time(3)
    tap(kiosk, "b2", session="end")
    tap(kiosk, "c1")
    found = sessions(kiosk, emulator)
    assert found["a1"] == found["a2"] < found["b1"] == found["b2"] < found["c1"]
    assert "session_start" not in found, "that one is GA4's own"
    assert all("session" not in event for event in emulator.events())


def test_an_end_begins_no_sitting(device, kiosk, emulator):
    """Neither the first one, nor a second, nor that of a page which idles longer than we do."""
    tap(kiosk, "lone", session="end")
    tap(kiosk, "a1")
    tap(kiosk, "a2", session="end")
    tap(kiosk, "a3", session="end")
    device.pass_time(TIMEOUT + 1)
    tap(kiosk, "later", session="end")
    tap(kiosk, "b1")
    device.pass_time(TIMEOUT + 1)
    tap(kiosk, "b2", session="end")
    found = sent(kiosk, emulator)
    assert found["lone"].keys() == found["later"].keys() == {"event_id"}
    first, second = found["a1"]["session_id"], found["b1"]["session_id"]
    assert first == found["a2"]["session_id"] == found["a3"]["session_id"] < second
    assert found["b2"]["session_id"] == second
    assert found["b2"]["engagement_time_msec"] == 1, "they had left"


@pytest.mark.parametrize("session", [None, "start", "end"])
def test_what_was_noted_before_this_boot_is_not_of_the_present_sitting(
    device, make_kiosk, emulator, session
):
    """The program kept it through a power cut and hands it in with its own time."""
    daemon = make_kiosk(SITTING)
    mark = {"session": session} if session else {}
    tap(daemon, "a1")
    tap(daemon, "old", timestamp_micros=device.shown_us() - 20 * 3600 * 1_000_000, **mark)
    tap(daemon, "a2")
    found, whose = sent(daemon, emulator), clients(daemon, emulator)
    assert found["old"].keys() == {"event_id"}
    assert found["a1"]["session_id"] == found["a2"]["session_id"]
    assert whose["a1"] == whose["a2"] != whose["old"]


def test_a_machine_neither_begins_nor_prolongs_a_sitting(device, kiosk, emulator):
    tap(kiosk, "restocked", actor="machine")
    tap(kiosk, "a1")
    device.pass_time(TIMEOUT - AWHILE)
    tap(kiosk, "cooled", actor="machine")
    device.pass_time(TIMEOUT - AWHILE)
    tap(kiosk, "b1")
    found = sent(kiosk, emulator)
    assert found["restocked"].keys() == {"event_id"}
    assert found["cooled"]["session_id"] == found["a1"]["session_id"] < found["b1"]["session_id"]
    assert "engagement_time_msec" not in found["cooled"]


def test_a_clock_that_jumps_neither_splits_nor_joins_sittings(device, kiosk, emulator):
    tap(kiosk, "a1")
    device.synchronise(ntp=False)
    device.jump_to(device.now() + 3 * HOUR)
    tap(kiosk, "a2")
    device.pass_time(TIMEOUT + 1)
    device.jump_to(device.now() - TIMEOUT)
    tap(kiosk, "b1")
    found = sessions(kiosk, emulator)
    assert found["a1"] == found["a2"] < found["b1"]


def test_a_sitting_that_is_sent_hours_late_keeps_its_session(device, kiosk, emulator):
    began = device.now()
    kiosk.ask("pause")
    tap(kiosk, "a1")
    device.pass_time(5 * HOUR)
    tap(kiosk, "b1")
    kiosk.ask("resume")
    found = sessions(kiosk, emulator)
    assert found["a1"] == pytest.approx(began, abs=2)
    assert found["b1"] == pytest.approx(began + 5 * HOUR, abs=AWHILE)


# Whose it is


def test_a_visitor_is_a_sitting_if_the_device_says_so(device, make_kiosk, emulator):
    daemon = make_kiosk(SITTING)
    tap(daemon, "a1")
    tap(daemon, "a2")
    restart(daemon)
    tap(daemon, "a3")
    device.pass_time(TIMEOUT + 1)
    tap(daemon, "b1")
    tap(daemon, "c1", session="start")
    found = clients(daemon, emulator)
    assert found["a1"] == found["a2"] == found["a3"], "a kill ends no visit"
    assert len({found["a1"], found["b1"], found["c1"]}) == 3
    device_id = json.loads((daemon.setup.state / "identity.json").read_bytes())["client_id"]
    assert device_id not in found.values()
    for client in found.values():
        first, second = client.split(".")
        assert first.isdigit()
        assert second.isdigit()


def test_a_visitor_is_the_device_if_nothing_else_is_said(device, kiosk, emulator):
    tap(kiosk, "a1")
    device.pass_time(TIMEOUT + 1)
    tap(kiosk, "b1")
    found = clients(kiosk, emulator)
    assert found["a1"] == found["b1"]
    device_id = json.loads((kiosk.setup.state / "identity.json").read_bytes())["client_id"]
    assert device_id == found["a1"]


def test_an_id_of_somebody_else_gets_no_session_of_ours(kiosk, emulator):
    tap(kiosk, "own")
    body = {"client_id": "7.7", "events": [{"name": "borrowed"}]}
    assert post(kiosk.setup.http_port, "/mp/collect", body) == 204
    tap(kiosk, "theirs", client_id="7.7", params={"session_id": 1_800_000_000})
    found = sent(kiosk, emulator)
    assert "session_id" in found["own"]
    assert found["borrowed"].keys() == {"event_id"}
    assert found["theirs"].keys() == {"event_id", "session_id"}
    assert found["theirs"]["session_id"] == 1_800_000_000
    assert kiosk.books().noted == {"borrowed_without_session": 1}


def test_after_a_reset_new_events_are_of_the_new_id_and_of_a_sitting_of_its_own(
    device, kiosk, emulator
):
    tap(kiosk, "before")
    device.pass_time(30)
    done = kiosk.command("identity", "reset", "--yes")
    assert (done.returncode, done.stderr) == (0, "")
    reset = device.now()
    tap(kiosk, "after")
    found = clients(kiosk, emulator)
    assert found["after"] != found["before"]
    assert found["after"] in done.stdout
    session = sessions(kiosk, emulator)
    assert session["before"] < session["after"] == pytest.approx(reset, abs=AWHILE)
    assert sent(kiosk, emulator)["after"]["engagement_time_msec"] == 1


# Restarts


def test_a_kill_within_a_sitting_ends_neither_the_sitting_nor_its_engagement(
    device, kiosk, emulator
):
    tap(kiosk, "a1")
    device.pass_time(20)
    restart(kiosk)
    tap(kiosk, "a2")
    device.pass_time(TIMEOUT + 1)
    restart(kiosk)
    tap(kiosk, "b1")
    found = sent(kiosk, emulator)
    assert found["a1"]["session_id"] == found["a2"]["session_id"] < found["b1"]["session_id"]
    assert 20_000 <= found["a2"]["engagement_time_msec"] < 20_000 + AWHILE * 1000
    assert found["b1"]["engagement_time_msec"] == 1


def test_session_ids_grow_over_restarts_even_several_in_a_second(kiosk, emulator):
    names = []
    for life in range(3):
        for number in range(5):
            names.append(f"e{life}_{number}")
            tap(kiosk, names[-1], session="start")
        restart(kiosk)
    found = sessions(kiosk, emulator)
    in_order = [found[name] for name in names]
    assert in_order == sorted(set(in_order))


def test_session_ids_grow_over_boots_whose_clock_is_behind(device, kiosk, emulator):
    """Set an hour back, and trusted all the same; then in 1970, and never trusted."""
    emulator.stop()
    tap(kiosk, "a1")
    kiosk.kill()
    device.power_off(60)
    device.jump_to(device.now() - HOUR)
    device.synchronise()
    kiosk.start()
    tap(kiosk, "b1")
    kiosk.kill()
    device.power_off(60)
    kiosk.start()
    tap(kiosk, "c1")
    kiosk.kill()
    device.power_off(60)
    device.learn_the_time()
    kiosk.start()
    tap(kiosk, "d1")
    emulator.start()
    found = sessions(kiosk, emulator)
    assert found["a1"] < found["b1"] < found["c1"] < found["d1"]
    assert found["d1"] == pytest.approx(device.now(), abs=AWHILE)
