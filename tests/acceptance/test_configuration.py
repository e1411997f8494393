"""Configuration that changes, breaks or lacks something: the rest works, and events are kept."""

import signal
import socket
from dataclasses import replace

import pytest

from agent.emulator import Emulator
from tests.acceptance.publishers import deliveries, hand_in, ids_of, mqtt_program
from tests.waiting import free_port

BROKEN = 'state_directory = "{state}"\n[stream.main]\nmeasurement_id = "UA-1"\n[htpp]\n'


def test_a_reload_applies_a_new_stream_and_a_new_subscription(
    make_daemon, mqtt_setup, broker, emulator
):
    daemon = make_daemon(mqtt_setup)
    daemon.start()
    broker.wait_subscribed("kiosk/events")
    pid = daemon.pid
    with Emulator(port=free_port()) as other:
        changed = replace(
            mqtt_setup,
            endpoint=other.url,
            measurement_id="G-ACCEPT0002",
            topics=("kiosk/events", "kiosk/more"),
        )
        daemon.write(changed.toml())
        daemon.signal(signal.SIGHUP)
        broker.wait_subscribed("kiosk/more")
        with mqtt_program(broker.port, "kiosk/more") as program:
            program.publish([1])
            assert other.wait_for(lambda: ids_of(other.events()) == [1], 10)
        hand_in(mqtt_setup.http_port, [2])
        assert other.wait_for(lambda: ids_of(other.events()) == [1, 2], 10)
        assert {r.query["measurement_id"] for r in deliveries(other)} == {"G-ACCEPT0002"}
        assert other.bugs == ()
        books = daemon.drained()
    assert books.received == books.sent == 2
    assert emulator.requests() == ()
    assert (daemon.pid, daemon.died()) == (pid, False)


def test_a_broken_configuration_is_refused_and_the_last_good_one_stays(
    make_daemon, setup, emulator
):
    daemon = make_daemon(setup)
    daemon.start()
    daemon.write(BROKEN.format(state=setup.state))
    daemon.signal(signal.SIGHUP)
    runs_on_the_last_good_one(daemon, emulator, 1)
    assert daemon.end() == 0
    daemon.start()
    runs_on_the_last_good_one(daemon, emulator, 2)
    daemon.write(setup.toml())
    daemon.signal(signal.SIGHUP)
    assert daemon.wait(lambda status: status["state"] == "ok")["config_problems"] == []


def runs_on_the_last_good_one(daemon, emulator, number: int) -> None:
    status = daemon.wait(lambda status: status["state"] == "misconfigured")
    problems = status["config_problems"]
    assert any(
        text.startswith(f"{daemon.config}: stream.main.measurement_id: ") for text in problems
    )
    assert any("htpp" in text for text in problems)
    hand_in(daemon.setup.http_port, [number])
    assert emulator.wait_for(lambda: number in ids_of(emulator.events()), 10)


def test_a_broken_configuration_at_the_first_start_ends_with_2(make_daemon, setup):
    daemon = make_daemon(setup)
    daemon.write(BROKEN.format(state=setup.state))
    daemon.spawn()
    assert daemon.exit_status() == 2
    assert f"{daemon.config}: stream.main.measurement_id: found 'UA-1', expected" in daemon.log
    assert f"{daemon.config}: htpp: " in daemon.log
    assert not setup.state.exists()


@pytest.mark.slow
def test_a_taken_port_degrades_http_alone_until_it_is_free(
    make_daemon, mqtt_setup, broker, emulator
):
    """The retry comes every 30 seconds, so this test lasts as long."""
    with socket.create_server(("127.0.0.1", mqtt_setup.http_port)):
        daemon = make_daemon(mqtt_setup)
        daemon.spawn()
        status = daemon.wait(lambda status: status["sources"]["http"]["problem"])
        assert status["state"] == "degraded"
        assert "cannot listen on 127.0.0.1:" in status["sources"]["http"]["problem"]
        broker.wait_subscribed("kiosk/events")
        with mqtt_program(broker.port) as program:
            program.publish([1])
            assert emulator.wait_for(lambda: ids_of(emulator.events()) == [1], 10)
    daemon.wait(lambda _: daemon.listens(), timeout=35)
    hand_in(mqtt_setup.http_port, [2])
    assert emulator.wait_for(lambda: ids_of(emulator.events()) == [1, 2], 10)
    status = daemon.wait(lambda status: status["state"] == "ok")
    assert status["sources"]["http"]["problem"] is None


def test_a_bad_ca_file_degrades_mqtt_alone(make_daemon, setup, emulator, tmp_path):
    ca_file = tmp_path / "ca.pem"
    ca_file.write_text("this is no certificate\n")
    tls = f'tls = true\nca_file = "{ca_file}"'
    daemon = make_daemon(replace(setup, mqtt_port=free_port(), mqtt=tls))
    daemon.start()
    status = daemon.wait(lambda status: str(ca_file) in str(status["sources"]["mqtt"]["problem"]))
    assert status["state"] == "degraded"
    hand_in(setup.http_port, [1])
    assert emulator.wait_for(lambda: ids_of(emulator.events()) == [1], 10)


def test_a_broker_that_is_not_there_degrades_mqtt_alone(make_daemon, setup, emulator):
    daemon = make_daemon(replace(setup, mqtt_port=free_port()))
    daemon.start()
    unreachable = "cannot reach the broker 127.0.0.1:"
    status = daemon.wait(
        lambda status: str(status["sources"]["mqtt"]["problem"]).startswith(unreachable)
    )
    assert status["state"] == "degraded"
    hand_in(setup.http_port, [1])
    assert emulator.wait_for(lambda: ids_of(emulator.events()) == [1], 10)


def test_without_a_secret_events_are_kept_until_there_is_one(make_daemon, setup, emulator):
    daemon = make_daemon(setup)
    secret = daemon.environ.pop("GA4_API_SECRET")
    daemon.start()
    hand_in(setup.http_port, range(30))
    status = daemon.wait(lambda status: status["state"] == "unconfigured")
    assert status["queue"]["events"] == 30
    daemon.flush()
    assert daemon.end() == 0
    assert emulator.requests() == ()
    daemon.environ["GA4_API_SECRET"] = secret
    daemon.start()
    books = daemon.drained()
    assert sorted(ids_of(emulator.events())) == list(range(30))
    assert books.received == books.sent == 30


def test_without_a_stream_events_are_kept_until_there_is_one(make_daemon, setup, emulator):
    daemon = make_daemon(replace(setup, endpoint=None))
    daemon.start()
    hand_in(setup.http_port, range(30))
    status = daemon.wait(lambda status: status["state"] == "unconfigured")
    assert status["queue"]["events"] == 30
    assert daemon.end() == 0
    daemon.write(setup.toml())
    daemon.start()
    books = daemon.drained()
    assert sorted(ids_of(emulator.events())) == list(range(30))
    assert books.received == books.sent == 30
