"""Each example configuration, with the messages of its own comments, against the real things.

Of the file's text only what belongs to this machine is changed: endpoints, the ports of agent and
broker, the broker's host and authority, the folders. The commands in its comments are run as they
stand, with the same changes.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

import pytest
import trustme

from agent.config import Config, load, parse
from agent.config.mapping import plain_filter
from agent.emulator import Emulator
from agent.ga4.validate import validate
from tests.acceptance.daemon import ROOT, SECRET, Daemon
from tests.acceptance.publishers import deliveries
from tests.acceptance.try_lines import ADDED, Step, own_params, stage, steps, with_keys
from tests.mosquitto import Mosquitto, program
from tests.waiting import PATIENCE, free_port, until

FOLDER = ROOT / "device_configs"
FILES = sorted(path.name for path in FOLDER.glob("*.toml"))
REFERENCE = "agent.toml"  # explains every setting; tests/test_config.py tries those
EXAMPLES = [name for name in FILES if name != REFERENCE]
PASSWORD = "the technician's"
NAME = re.compile("[A-Za-z][A-Za-z0-9_]{0,39}")
MADE = "the agent's"  # an id that the agent made
MADE_FORM = re.compile(r"[0-9]+\.[0-9]+")
NEVER = ("_", "firebase_", "ga_", "google_", "gtag.")  # GA4 drops parameters that begin so


def text_of(name: str) -> str:
    return (FOLDER / name).read_text()


# -- what can be seen without running them ----------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_every_file_loads_without_problems(name):
    assert isinstance(load(FOLDER / name), Config)


def test_the_readme_names_every_file_and_no_other():
    named = re.findall(r"\(device_configs/([a-z.-]+)\)", (ROOT / "README.md").read_text())
    assert sorted(set(named)) == sorted(path.name for path in FOLDER.iterdir())


@pytest.mark.parametrize("name", FILES)
def test_every_file_says_who_a_user_in_reports_is(name):
    """By itself, and not by a default: no other choice changes the reports more."""
    chosen = tomllib.loads(text_of(name))["device"]["visitor"]
    strangers = name in ("kiosk.toml", "vending.toml")
    assert chosen == ("sitting" if strangers else "device")
    assert load(FOLDER / name).session.timeout == (120.0 if strangers else 1800.0)


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example_says_what_to_change_and_has_something_to_try(name):
    text = text_of(name)
    head, _ = text.split("\n\n", 1)
    assert "agent.toml beside this file" in head
    assert sum(len(step.promised) for step in steps(text)) >= 3
    if name == "demo.toml":
        return
    assert "measurement_id" in head
    for stream in load(FOLDER / name).stream:
        command = "ga4-agent secret set" + (f" {stream}" if stream != "main" else "")
        assert f"{command}\n" in head


@pytest.mark.parametrize("name", EXAMPLES)
def test_no_example_sends_anything_before_it_was_made_the_readers_own(name):
    for stream in load(FOLDER / name).stream.values():
        assert stream.api_secret_file is None
        local = stream.endpoint == "http://127.0.0.1:8790"
        assert local if name == "demo.toml" else "XXXX" in stream.measurement_id


def test_the_demo_stays_on_this_machine_and_leaves_nothing_behind():
    demo = load(FOLDER / "demo.toml")
    assert demo.state_directory.is_relative_to("/tmp")
    assert demo.volatile is True
    assert demo.http.address == ("127.0.0.1", 8787)
    assert (demo.mqtt.host, demo.mqtt.broker_port) == ("127.0.0.1", 1883)


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_event_in_the_comments_is_one_that_ga4_takes(name):
    for event in (event for step in steps(text_of(name)) for event in step.promised):
        params = event.get("params", {})
        assert len(params) <= 25
        assert all(NAME.fullmatch(each) for each in (event["name"], *params)), event
        assert not [each for each in params if each.startswith(NEVER)]
        assert not [each for each in params.values() if isinstance(each, str) and len(each) > 100]
        assert ("value" in params) is ("currency" in params), event
        assert not params.keys() & ADDED
        body = {"client_id": "1.1", "events": [{"name": event["name"], "params": params}]}
        assert validate(body, stream="web", now_us=0) == ()


@pytest.mark.parametrize("name", EXAMPLES)
def test_no_example_makes_an_event_id_of_a_number_that_may_begin_anew(name):
    """What has the same event_id is refused as a repeat, whatever else it says."""
    mqtt = load(FOLDER / name).mqtt
    assert [each.topic for each in (mqtt.subscriptions if mqtt else ()) if each.event_id] == []


# -- what they become when they are run --------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """An example that is running, between programs that hand in and a local GA4."""

    text: str
    config: Config
    daemon: Daemon
    emulator: Emulator
    changes: dict[str, str]
    environ: dict[str, str]

    def run(self, command: str) -> str:
        """Run a command of the comments as a shell does; what it printed."""
        done = subprocess.run(
            ["sh", "-c", changed(command, self.changes)],
            env=self.environ, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        return done.stdout

    def promised(self, step: Step) -> list[str]:
        """What GA4 gets for a command, whole, in words that can be compared."""
        main = self.config.default_stream
        return [
            written(
                self.config.stream[event.get("stream", main)].measurement_id,
                event.get("client_id", MADE),
                event,
            )
            for event in step.promised
        ]

    def arrived(self) -> list[str]:
        """What GA4 got, in the same words."""
        return sorted(
            written(request.query["measurement_id"], self.owner(request.body["client_id"]), event)
            for request in self.emulator.requests()
            if request.counted
            for event in request.events
        )

    def owner(self, client_id: str) -> str:
        """Whose id it is: the one that the comments name, or one that the agent made.

        ``visitor = "sitting"`` has the agent make new ones; what machines do is the device's.
        """
        named = [event.get("client_id") for step in steps(self.text) for event in step.promised]
        if client_id in named:
            return client_id
        device = json.loads((self.daemon.setup.state / "identity.json").read_bytes())["client_id"]
        sitting = self.config.device.visitor == "sitting" and MADE_FORM.fullmatch(client_id)
        return MADE if client_id == device or sitting else client_id


def written(measurement_id: str, client_id: str, event: dict) -> str:
    whole = {"to": measurement_id, "of": client_id, "name": event["name"]}
    return json.dumps(whole | {"params": own_params(event)}, sort_keys=True)


def changed(text: str, changes: dict[str, str]) -> str:
    for old, new in changes.items():
        text = text.replace(old, new)
    return text


@pytest.fixture
def make_scene(tmp_path, setup, emulator, make_daemon) -> Iterator:
    """Makes the scene of a file, for a broker if it has one; the daemon is not started yet."""
    brokers: list[Mosquitto] = []

    def make(name: str) -> tuple[Scene, Mosquitto | None]:
        text = text_of(name)
        broker = None
        if "mqtt]" in text:
            broker = a_broker(tmp_path, tls="tls = true" in text)
            brokers.append(broker)
            broker.start()
        changes = {
            "G-XXXXXXXX": "G-ABCDEFGH",  # the first of the two things to change
            "127.0.0.1:8787": f"127.0.0.1:{setup.http_port}",
            "127.0.0.1:8790": emulator.url.removeprefix("http://"),
            "broker.example": "127.0.0.1",
            "-p 8883": f"-p {broker and broker.port}",
            "/etc/ga4-agent/broker-ca.pem": str(tmp_path / "ca.pem"),
            "/var/spool/ga4-events": str(tmp_path / "spool-folder"),
            "device_configs/demo.toml": str(tmp_path / "daemon-0" / "agent.toml"),
        }
        local = localized(changed(text, changes), setup, broker)
        daemon = make_daemon(setup)
        daemon.write(local)
        config = parse(local, name=name)
        hand_over_secrets(daemon, config, tmp_path / "credentials")
        environ = a_shell(tmp_path / "shell", daemon, broker)
        return Scene(
            text=text,
            config=config,
            daemon=daemon,
            emulator=emulator,
            changes=changes,
            environ=environ,
        ), broker

    yield make
    for broker in brokers:
        broker.kill()


def localized(text: str, setup, broker: Mosquitto | None) -> str:
    """The file's text with this test's folders, endpoints and ports."""
    for stream in parse(text, name="example").stream:
        text = with_keys(text, f"stream.{stream}", endpoint=setup.endpoint)
    text = with_keys(text, "", state_directory=str(setup.state))
    text = with_keys(text, "http", listen=f"127.0.0.1:{setup.http_port}")
    return with_keys(text, "mqtt", port=broker.port) if broker else text


def hand_over_secrets(daemon: Daemon, config: Config, folder: Path) -> None:
    """As systemd does: a file for each credential."""
    folder.mkdir()
    for stream in config.stream:
        (folder / f"api_secret_{stream}").write_text(SECRET)
    (folder / "mqtt_password").write_text(SECRET)
    del daemon.environ["GA4_API_SECRET"]
    daemon.environ["CREDENTIALS_DIRECTORY"] = str(folder)


def a_shell(home: Path, daemon: Daemon, broker: Mosquitto | None) -> dict[str, str]:
    """What a technician has: ga4-agent, the agent's configuration, and a home."""
    for needed, package in (("curl", "curl"), ("mosquitto_pub", "mosquitto-clients")):
        if shutil.which(needed) is None:
            tell = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
            tell(f"found no {needed}: apt install {package}")
    (home / ".config").mkdir(parents=True)
    command = home / "ga4-agent"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m agent "$@"\n')
    command.chmod(0o755)
    if broker:
        (home / ".config" / "mosquitto_pub").write_text(f"-p {broker.port}\n")
    return {
        "PATH": f"{home}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HOME": str(home),
        "GA4_AGENT_CONFIG": str(daemon.config),
        "PASSWORD": PASSWORD,
    }


def a_broker(directory: Path, *, tls: bool) -> Mosquitto:
    """mosquitto as the examples expect it: on loopback open, over TLS with passwords."""
    if not tls:
        return Mosquitto(directory / "broker")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(directory / "ca.pem")
    mine = authority.issue_cert("127.0.0.1")
    mine.private_key_pem.write_to_path(directory / "key.pem")
    mine.cert_chain_pems[0].write_to_path(directory / "cert.pem")
    users = directory / "users"
    users.write_text(f"gateway:{SECRET}\ntechnician:{PASSWORD}\n")
    users.chmod(0o600)
    subprocess.run([program("mosquitto_passwd"), "-U", users], check=True, timeout=30)
    return Mosquitto(
        directory / "broker",
        f"allow_anonymous false\npassword_file {users}\n"
        f"certfile {directory / 'cert.pem'}\nkeyfile {directory / 'key.pem'}\n",
    )


def start(scene: Scene, broker: Mosquitto | None) -> None:
    scene.daemon.start()
    if broker:
        for each in scene.config.mqtt.subscriptions:
            broker.wait_subscribed(plain_filter(each.topic))


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_what_the_comments_promise_is_what_ga4_gets_and_nothing_else(name, make_scene):
    scene, broker = make_scene(name)
    start(scene, broker)
    expected: list[str] = []
    for step in steps(scene.text):
        scene.run(step.command)
        expected += scene.promised(step)
        scene.daemon.wait_received(len(expected))  # before the next, as a person does
    until(lambda: len(scene.arrived()) >= len(expected), lambda: f"all of {expected}")
    books = scene.daemon.drained()
    assert scene.arrived() == sorted(expected)
    assert (books.received, books.sent) == (len(expected), len(expected))
    status = scene.daemon.wait(lambda _: True)
    assert [s for s in status["sources"].values() if s["problem"]] == []
    assert status["secret_problems"] == []


@pytest.mark.slow
def test_a_kiosk_with_the_copied_file_takes_and_keeps_events_before_it_has_a_secret(
    make_scene, setup
):
    """What the README's commands lead to, between the second and the third."""
    scene, _ = make_scene("kiosk.toml")
    del scene.daemon.environ["CREDENTIALS_DIRECTORY"]
    scene.daemon.write(with_keys(text_of("kiosk.toml"), "", state_directory=str(setup.state)))
    said = scene.run("ga4-agent check 2>&1; test $? = 2")
    assert "found the example's G-XXXXXXXXXX, expected yours" in said
    scene.daemon.write(scene.daemon.config.read_text().replace("8787", str(setup.http_port)))
    scene.daemon.start()
    first = steps(scene.text)[0]
    assert "202" in scene.run(first.command)
    status = scene.daemon.wait(lambda status: status["state"] == "unconfigured")
    assert status["queue"]["events"] == 1
    assert scene.emulator.requests() == ()


@pytest.mark.slow
def test_a_page_from_elsewhere_is_refused_by_the_kiosk(make_scene):
    scene, _ = make_scene("kiosk.toml")
    start(scene, None)
    (foreign,) = (s for s in steps(scene.text) if "elsewhere.example" in s.command)
    assert foreign.promised == ()
    assert "403" in scene.run(foreign.command)


@pytest.mark.slow
def test_of_the_values_that_the_broker_kept_only_availability_is_taken(make_scene):
    scene, broker = make_scene("sensor.toml")
    scene.run("mosquitto_pub -q 1 -r -t sensors/hall/availability -m online")
    scene.run("mosquitto_pub -q 1 -r -t sensors/hall/temperature -m 19")
    start(scene, broker)
    scene.daemon.wait(lambda status: status["ledger"]["refused"].get("retained") == 1)
    until(scene.arrived, "the availability")
    (event,) = scene.emulator.events()
    assert event["name"] == "sensor_availability"
    assert own_params(event) == {"sensor": "hall", "state": "online"}
    assert scene.daemon.books().received == 1


@pytest.mark.slow
def test_each_customer_of_the_vending_machine_is_a_user_and_has_a_session(make_scene):
    """Between two customers the machine says end; its own readings belong to neither."""
    scene, broker = make_scene("vending.toml")
    start(scene, broker)
    whole_visit = [s for s in steps(scene.text) if "vending/17/customer" in s.command]
    reading = next(s for s in steps(scene.text) if "temperature" in s.command)
    for number, step in enumerate([*whole_visit, reading, *whole_visit], start=1):
        scene.run(step.command)
        scene.daemon.wait_received(number)
    until(lambda: len(scene.arrived()) == 5, "both visits and the reading")
    seen = {
        (event["name"], request.body["client_id"], event["params"].get("session_id"))
        for request in scene.emulator.requests()
        for event in request.events
    }
    starts = {(client, session) for name, client, session in seen if name == "visit_start"}
    ends = {(client, session) for name, client, session in seen if name == "visit_end"}
    assert starts == ends
    assert len({client for client, _ in starts}) == len({session for _, session in starts}) == 2
    [(client, session)] = [(c, s) for name, c, s in seen if name == "cabinet_temperature"]
    assert session is None
    assert client not in {client for client, _ in starts}


@pytest.mark.slow
def test_a_vending_machine_that_counts_from_one_again_loses_no_sale(make_scene):
    """What is published twice is one sale; the number with another total is another one."""
    scene, broker = make_scene("vending.toml")
    start(scene, broker)
    sale = next(s for s in steps(scene.text) if "4711" in s.command)
    other = sale.command.replace('"total": 550', '"total": 800')
    for command in (sale.command, sale.command, other, other):
        scene.run(command)
    scene.daemon.wait(lambda status: status["ledger"]["refused"].get("duplicate") == 2)
    books = scene.daemon.drained()
    sold = [(own["transaction_id"], own["value"]) for own in _params(scene)]
    assert sorted(sold) == [("17-4711", 5.5), ("17-4711", 8)]
    assert (books.received, books.noted["transaction_id_reused"]) == (2, 1)


def _params(scene: Scene) -> list[dict]:
    return [own_params(event) for event in scene.emulator.events()]


@pytest.mark.slow
def test_the_readings_of_sensors_leave_in_one_request(make_scene):
    scene, broker = make_scene("sensor.toml")
    start(scene, broker)
    readings = [s for s in steps(scene.text) if "temperature" in s.command or "motion" in s.command]
    for step in readings:
        scene.run(step.command)
    scene.daemon.wait_received(len(readings))
    scene.run("ga4-agent flush")
    until(scene.arrived, "the readings")
    (request,) = deliveries(scene.emulator)
    assert len(request.events) == len(readings) >= 4


# -- the demo's own three commands ---------------------------------------------------------------


@pytest.mark.slow
def test_the_three_commands_of_the_demo_make_a_whole(tmp_path, make_scene, setup):
    """The very commands: a local GA4, a broker and the agent, all three from the command line."""
    scene, broker = make_scene("demo.toml")
    broker.stop()
    ga4 = free_port()
    elsewhere = {
        f'"{setup.endpoint}"': f'"http://127.0.0.1:{ga4}"',
        f"127.0.0.1:{setup.endpoint.rpartition(':')[2]}": f"127.0.0.1:{ga4}",
    }
    scene.daemon.write(changed(scene.daemon.config.read_text(), elsewhere))
    scene.changes["127.0.0.1:8790"] = f"127.0.0.1:{ga4}"
    scene.changes["-p 1883"] = f"-p {broker.port}"
    scene.changes["/usr/sbin/mosquitto"] = program("mosquitto")
    with running(scene, stage(scene.text), tmp_path / "three.log") as log:
        until(lambda: taken_by(ga4) == [], log.read_text)
        until(lambda: broker_problem(setup.http_port) is None, log.read_text)
        promised: list[str] = []
        for step in steps(scene.text):
            scene.run(step.command)
            promised += [written("", "", event) for event in step.promised]
            until(lambda: taken_by(ga4) == sorted(promised), log.read_text)  # noqa: B023 - at once


@contextmanager
def running(scene: Scene, commands: list[str], log: Path) -> Iterator[Path]:
    """Each command as in a terminal of its own; at the end Ctrl-C in each."""
    assert len(commands) == 3
    with log.open("wb") as output, ExitStack() as processes:
        for command in commands:
            process = processes.enter_context(
                subprocess.Popen(
                    ["sh", "-c", changed(command, scene.changes)],
                    env=scene.environ,
                    cwd=ROOT,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
            )
            processes.callback(os.killpg, process.pid, signal.SIGTERM)
        yield log


def taken_by(ga4: int) -> list[str] | None:
    """What an emulator in a process of its own has counted; None while it does not listen."""
    lines = got(ga4, "/emulator/events")
    if lines is None:
        return None
    return sorted(written("", "", json.loads(line)) for line in lines.splitlines())


def broker_problem(http_port: int) -> str | None:
    """What the agent says of its broker; a text while the agent does not listen either."""
    status = got(http_port, "/status")
    return "no agent yet" if status is None else json.loads(status)["sources"]["mqtt"]["problem"]


def got(port: int, path: str) -> str | None:
    connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("GET", path)
        return connection.getresponse().read().decode()
    except ConnectionRefusedError:
        return None
    finally:
        connection.close()
