"""``ga4-agent doctor``: what goes wrong in the field, and what to do about it."""

import json
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agent.cli.options import CONFIG

if TYPE_CHECKING:
    from agent.config import Config, ConfigError
    from agent.doctor.clock import Witnesses
    from agent.doctor.diagnosis import Diagnosis
    from agent.doctor.endpoint import Probe
    from agent.doctor.secrets import Stored
    from agent.event import Stream

PATIENCE = 10.0  # seconds for an answer of an endpoint, all in all
AT_ONCE = 8  # endpoints
WORDS = {"ok": "ok", "trouble": "TROUBLE", "unseen": "not seen"}
STATUS = {"ok": 0, "trouble": 1, "unseen": 2}


@dataclass(frozen=True, slots=True)
class Place:
    """Where things are: the configuration's file, and the one in effect: an empty one if none is.

    ``directory``: the state's. ``service``: whether this user sees at least what the service sees.
    """

    path: Path
    config: "Config"
    directory: Path
    service: bool


@click.command("doctor")
@CONFIG
@click.option("--json", "as_json", is_flag=True, help="JSON for programs.")
def command(config: Path | None, *, as_json: bool) -> None:
    """Look for what goes wrong in the field, and say what to do.

    Configuration, secrets, clock, endpoint, daemon and queue. Sends no event; asks each endpoint
    once, for ten seconds at most. Whether a secret is right it cannot say: GA4 does not tell.

    Exit status: 0 nothing found, 1 something found, 2 nothing found but not all could be seen, or
    wrong usage.
    """
    from agent.doctor.diagnosis import worst

    found = list(_examined(config))
    if as_json:
        click.echo(json.dumps({"findings": [asdict(each) for each in found]}, indent=2))
    else:
        _show(found)
    sys.exit(STATUS[worst(found)])


def _show(found: "Sequence[Diagnosis]") -> None:
    width = max(len(each.subject) for each in found)
    for each in found:
        cure = f" - {each.cure}" if each.cure else ""
        click.echo(f"{each.subject:{width}}  {WORDS[each.verdict]:8}  {each.found}{cure}")


def _examined(given: Path | None) -> "Iterator[Diagnosis]":
    from agent.boot_config import VARIABLE, config_path
    from agent.config import ConfigError, expect_readable

    path = config_path(given)
    try:
        expect_readable(path)
    except ConfigError as error:
        # A file that was named and is not there must not lead to the agent of another one.
        if given or os.environ.get(VARIABLE):
            yield from _refused(path, error)
            return
    place, configuration = _configuration(path)
    document, daemon = _daemon(place.directory)
    yield from configuration
    yield from _delivery(place, document)
    yield daemon
    yield _queue(place.directory)


def _service(directory: Path) -> bool:
    try:
        return os.geteuid() in (0, directory.stat().st_uid)
    except OSError:
        return os.geteuid() == 0


def _shut(path: Path) -> bool:
    """Whether it is this user who may not read it."""
    try:
        path.stat()
    except PermissionError:
        return True
    except OSError:
        return False
    return not os.access(path, os.R_OK, effective_ids=True)


# -- the configuration --------------------------------------------------------------------------


def _configuration(path: Path) -> "tuple[Place, Iterator[Diagnosis]]":
    """The configuration in effect, and what is to be said of the file."""
    from agent.boot_config import choose, state_directory
    from agent.config import Config, ConfigError

    try:
        chosen = choose(path, environ=os.environ)
    except ConfigError as error:
        directory = state_directory(path, os.environ)
        place = Place(path, Config(), directory, _service(directory))
        return place, _refused(path, error)
    directory = chosen.config.state_directory
    place = Place(path, chosen.config, directory, _service(directory))
    return place, _named(place, chosen.problems)


def _refused(path: Path, error: "ConfigError") -> "Iterator[Diagnosis]":
    """There is none, or none that could be used."""
    from agent.doctor import configuration

    if _shut(path):
        return iter([configuration.shut(str(path))])
    problems = [str(problem) for problem in error.problems]
    return configuration.examine(configuration.Loaded(path=str(path), problems=problems))


def _named(place: Place, problems: Sequence[str]) -> "Iterator[Diagnosis]":
    """What is wrong with it and with the files that it names."""
    from agent import wiring
    from agent.cli.check import examples, unsalted_keys
    from agent.doctor import configuration

    if problems and _shut(place.path):
        return iter([configuration.shut(str(place.path))])
    lacks, salt_problems = unsalted_keys(place.config)
    return configuration.examine(
        configuration.Loaded(
            path=str(place.path),
            problems=problems,
            fallback=bool(problems),
            streams=tuple(place.config.stream),
            lies=tuple(examples(place.config)),
            files=[*wiring.unreadable_files(place.config, os.environ), *salt_problems],
            service=place.service,
            lacks=lacks,
        )
    )


# -- secrets, clock, endpoint -------------------------------------------------------------------


def _delivery(place: Place, document: Mapping[str, Any] | None) -> "Iterator[Diagnosis]":
    """What delivery needs, as far as the configuration says to where."""
    from agent.doctor import clock, endpoint, secrets

    streams: dict[str, Stream] = {}
    for name in place.config.stream:
        stored, streams[name] = _stored(place, name, document)
        yield secrets.examine(stored)
    probes = [_with_news(probe, document) for probe in _probed(streams, place)]
    yield clock.examine(_witnesses(probes, document))
    for probe in probes:
        yield endpoint.examine(probe)


def _stored(place: Place, name: str, document: Mapping[str, Any] | None) -> "tuple[Stored, Stream]":
    """What there is of a stream's secret, and the stream with it."""
    from agent.doctor.secrets import Stored

    stream, problems = _as_the_service(place, name)
    file = _secret_file(place, name)
    handed = file is None
    return Stored(
        stream=name,
        fingerprint=stream.secret.fingerprint if stream.secret else "",
        place="the environment variable GA4_API_SECRET" if handed else str(file),
        mode=_mode(file) if file else None,
        problem=problems[0] if problems else "",
        shut=not place.service and file is not None and _shut(file),
        served=_served(name, document),
    ), stream


def _as_the_service(place: Place, name: str) -> "tuple[Stream, list[str]]":
    """The stream and what is wrong with its secret; a file is read as the daemon would."""
    from agent import wiring
    from agent.boot_config import credentials_folder
    from agent.rights import as_owner

    settings = place.config.stream[name]
    only = replace(place.config, stream={name: settings})
    daemons = settings.api_secret_file is not None and place.directory.exists()
    with as_owner(place.directory) if daemons else nullcontext():
        streams, problems = wiring.streams(only, os.environ, credentials_folder(place.path))
    return streams[name], problems


def _secret_file(place: Place, name: str) -> Path | None:
    """The file that decides, whether it can be read or not; None: none but the environment may."""
    from agent.boot_config import credentials_folder

    if file := place.config.stream[name].api_secret_file:
        return file
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    if folder and _there(Path(folder, f"api_secret_{name}")):
        return Path(folder, f"api_secret_{name}")
    if "GA4_API_SECRET" in os.environ:
        return None
    return credentials_folder(place.path) / name


def _there(path: Path) -> bool:
    try:
        return path.exists()
    except PermissionError:
        return True


def _mode(file: Path) -> int | None:
    """Who may read it; None where this user cannot tell."""
    try:
        return file.stat().st_mode & 0o777
    except OSError:
        return None


def _served(name: str, document: Mapping[str, Any] | None) -> bool | None:
    """Whether the running daemon has a secret for the stream; None if nobody knows."""
    for stream in _streams(document):
        if stream["stream"] == name:
            if stream["state"] != "unconfigured":
                return True
            return False if "api_secret" in stream["reason"] else None
    return None


def _probed(streams: "Mapping[str, Stream]", place: Place) -> "list[Probe]":
    """Every endpoint once, with the streams that share it."""
    shared: dict[str, list[str]] = {}
    for name, stream in streams.items():
        shared.setdefault(stream.endpoint, []).append(name)
    if not shared:
        return []

    def ask(names: "list[str]") -> "Probe":
        return _asked(streams[names[0]], tuple(names), place)

    with warnings.catch_warnings(), ThreadPoolExecutor(AT_ONCE) as pool:
        # urllib3's own words on a clock in 1970: the line of the clock has better ones.
        warnings.filterwarnings("ignore", message="System time is way off")
        return list(pool.map(ask, shared.values()))


def _with_news(probe: "Probe", document: Mapping[str, Any] | None) -> "Probe":
    """The probe with what the daemon has found out by events."""
    said = [each for each in _streams(document) if each["stream"] in probe.names]
    unwanted = [each["reason"] for each in said if each["state"] == "misconfigured"]
    delivers = any(each["state"] == "ok" and each["delivered_ago_s"] is not None for each in said)
    return replace(probe, delivers=delivers, refused=unwanted[0] if unwanted else "")


def _streams(document: Mapping[str, Any] | None) -> Sequence[Mapping[str, Any]]:
    return document["streams"] if document else ()


def _asked(stream: "Stream", names: tuple[str, ...], place: Place) -> "Probe":
    """One request without events."""
    from agent.clock import wall_us
    from agent.delivery.transport import Transport
    from agent.doctor.endpoint import Probe
    from agent.ga4.request import probe
    from agent.urequests import Client

    network = place.config.network
    ca_file = str(network.ca_file) if network.ca_file else None
    deadline = min(PATIENCE, place.config.delivery.timeout)
    transport = Transport(
        client=lambda: Client(proxy=network.proxy, ca_file=ca_file, deadline=deadline)
    )
    sent_us = wall_us()
    try:
        answer = transport.post(probe(stream)).answer
    finally:
        transport.close()
    return Probe(stream=stream, names=names, answer=answer, sent_us=sent_us, received_us=wall_us())


def _witnesses(probes: "Sequence[Probe]", document: Mapping[str, Any] | None) -> "Witnesses":
    from agent.clock import kernel_synchronised, wall_us
    from agent.doctor.clock import Witnesses

    try:
        ntp = kernel_synchronised()
    except OSError:
        ntp = False
    heard = [each for probe in probes if (each := probe.heard)]
    return Witnesses(
        wall_us=wall_us(),
        ntp=ntp,
        daemon=document["clock"] if document else None,
        heard=min(heard, key=lambda each: each.error_us, default=None),
        blocked=tuple(name for probe in probes if probe.blocked for name in probe.names),
    )


# -- daemon and queue ---------------------------------------------------------------------------


def _daemon(directory: Path) -> "tuple[Mapping[str, Any] | None, Diagnosis]":
    """Its status, if it said it, and what is to be said of it."""
    from agent.control import ControlError, NotRunning, ask
    from agent.doctor import daemon
    from agent.queue.reader import owner

    try:
        document: Mapping[str, Any] = ask(directory, "status")
    except NotRunning as error:
        return None, daemon.absent(str(error))
    except PermissionError:
        return None, daemon.shut(owner(directory))
    except (ControlError, OSError, ValueError) as error:
        return None, daemon.silent(str(getattr(error, "strerror", None) or error))
    return document, daemon.running(document)


def _queue(directory: Path) -> "Diagnosis":
    from agent.doctor import queue
    from agent.queue.event_queue import FILE_NAME
    from agent.queue.reader import CannotRead, owner, read_snapshot

    path = directory / FILE_NAME
    if not _there(path):
        return queue.missing(str(path))
    if _shut(path):
        return queue.shut(str(path), owner(directory))
    try:
        return queue.readable(read_snapshot(directory))
    except CannotRead as error:
        return queue.unreadable(str(error))
