"""``ga4-agent check``: whether the configuration is good."""

import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agent.cli.options import CONFIG
from agent.units import format_duration

if TYPE_CHECKING:
    from agent.config import Config

EVENT_BYTES = 550  # of the file, for a usual event with its row, index and page
DAYS = 7


@click.command("check")
@CONFIG
def command(config: Path | None) -> None:
    """Check the configuration and the files that it names.

    Prints every problem, those of the configuration as FILE: key.path: found X, expected Y. What
    is only missing so far, such as a secret, is said and is no problem.

    Exit status: 0 it is good, 2 it is not.
    """
    from agent import wiring
    from agent.boot_config import config_path, credentials_folder
    from agent.config import ConfigError, load

    path = config_path(config)
    try:
        loaded = load(path)
    except ConfigError as error:
        _refuse([str(problem) for problem in error.problems])
    streams, problems = wiring.streams(loaded, os.environ, credentials_folder(path))
    problems += wiring.unreadable_files(loaded, os.environ)
    unsalted, salt_problems = unsalted_keys(loaded)
    problems += salt_problems
    copied = [f"{path}: {problem}" for problem in examples(loaded)]
    # What another user than root cannot read, the service perhaps can.
    unsure = problems if os.geteuid() != 0 else []
    if copied or len(problems) > len(unsure):
        _refuse([*copied, *problems])
    click.echo(f"{path} is good: {_summary(list(loaded.stream))}")
    lacks = [f"stream {each.name}: {each.lacks}" for each in streams.values() if each.lacks]
    lacks += nobody_s_apps(loaded)
    for line in (
        *_users(loaded),
        _holds(loaded),
        *(f"not checked as this user: {problem}" for problem in unsure),
        *(f"not yet: {lack}" for lack in (*lacks, *unsalted) if not unsure),
    ):
        click.echo(line)


def _refuse(problems: list[str]) -> None:
    for problem in problems:
        click.echo(problem, err=True)
    sys.exit(2)


def examples(config: "Config") -> Iterator[str]:
    """Ids that were copied from an example: GA4 takes events for them, and drops them."""
    from agent.event import EXAMPLE_ID

    for name, stream in config.stream.items():
        if stream.measurement_id and EXAMPLE_ID.fullmatch(stream.measurement_id):
            yield (
                f"stream.{name}.measurement_id: found the example's {stream.measurement_id}, "
                "expected yours (Admin > Data streams)"
            )


def _summary(streams: list[str]) -> str:
    if not streams:
        return "no stream yet, so events are kept until there is one"
    return f"streams {', '.join(streams)}; events go to {streams[0]} unless they say otherwise"


def _holds(config: "Config") -> str:
    """What the cap means in events and hours, at this device's own rate if it is known."""
    from agent import wiring
    from agent.queue.event_queue import RESERVE
    from agent.units import format_size

    cap = wiring.cap(config)
    number = (cap - RESERVE) // EVENT_BYTES // 1000 * 1000
    daily = _daily(config.state_directory)
    hours = number / daily * 24 if daily else number / 3600
    rate = f"the {daily:,} a day of this device" if daily else "one a second"
    full = "then the oldest go" if config.queue.on_full == "evict" else "then publishers wait"
    return (
        f"the queue of {format_size(cap)} holds about {number:,} events, "
        f"{hours:,.0f} hours at {rate}; {full}"
    )


def _daily(state: Path) -> int:
    """Events that came on a usual day of the last week; 0 if nobody knows."""
    from agent.queue.reader import CannotRead, reading

    try:
        with reading(state) as reader:
            days = reader.days(last=DAYS)
    except CannotRead:
        return 0
    of_day = Counter[str]()
    for row in days:
        of_day[row.day] += row.received
    return sorted(of_day.values())[len(of_day) // 2] if of_day else 0


def _users(config: "Config") -> Iterator[str]:
    """What the choice of ids means to whoever reads reports."""
    device = config.device
    if device.visitor == "sitting":
        yield (
            "visitor = sitting: reports count each visit as a new user, and nobody as returning "
            f"(a visit ends after {format_duration(config.session.timeout)} without an event)"
        )
    else:
        yield (
            "visitor = device: reports count this machine as one user, however many people use it"
        )
    if device.user_id is not None:
        yield "user_id: reports by User-ID count all events that name no user as one user's"


def nobody_s_apps(config: "Config") -> Iterator[str]:
    """App streams on which an event that names nobody is refused: no id can be made up for them."""
    if config.device.app_instance_id is not None:
        return
    for name, stream in config.stream.items():
        if stream.firebase_app_id is not None:
            yield (
                f"stream {name}: there is no app_instance_id for events that name none, so they are "
                "refused; write the 32 hex digits that your app's SDK gives under [device], or have "
                "each event say them"
            )


def unsalted_keys(config: "Config") -> tuple[list[str], list[str]]:
    """What ids of keys lack, as far as can be seen from here, and what is wrong with the salt."""
    from agent.secret import SecretError, find_secret

    file = config.device.id_salt_file
    try:
        salt = find_secret(
            credential="id_salt", file=file, variable="GA4_ID_SALT", environ=os.environ
        )
    except SecretError as error:
        return [], [str(error)]
    subscriptions = config.mqtt.subscriptions if config.mqtt else ()
    keyed = [each.topic for each in subscriptions if each.client_key is not None]
    if salt is not None or not keyed:
        return [], []
    lack = (
        f"client_key of {keyed[0]}: there is no salt to make ids of keys with; write a long random "
        "text into a file (chmod 640) and name it with id_salt_file under [device], unless the "
        "service has a systemd credential id_salt"
    )
    return [lack], []
