"""``ga4-agent validate --live``: what GA4 and the agent say of a body, side by side."""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import click

from agent import jsontext, live, wiring
from agent.boot_config import config_path, credentials_folder
from agent.clock import Clock
from agent.config import Config, ConfigError, addresses, load
from agent.config.problems import MisfitError
from agent.event import Stream
from agent.live import Comparison, Finding, compared
from agent.urequests import Client

SHOWN = 20  # messages of a kind that people are shown
SHORT = "GA4 often names one thing at a time: mend it and ask again"
SILENT = "GA4 would take it and then ignore, cut or move it, as far as is documented"
BEYOND = "no rule that the agent knows: docs/ga4-rules.md says which it has"


def show(
    text: bytes, *, config: Path | None, name: str | None, endpoint: str | None, as_json: bool
) -> NoReturn:
    """Ask, show who says what, and end: 0 nobody says anything, 1 somebody does, 2 not asked.

    ``name``: of the stream; ``endpoint``: another than the stream's own.
    """
    loaded, path = _load(config)
    stream = _stream(loaded, path, name, endpoint)
    theirs, ours = _theirs(loaded, stream, text), _ours(loaded, stream, text)
    comparison = compared(theirs, ours)
    if as_json:
        click.echo(json.dumps(_document(stream, comparison), indent=2))
    else:
        for line in _report(stream, comparison, silent=not theirs):
            click.echo(_plain(line))
    sys.exit(1 if theirs or ours else 0)


def _load(given: Path | None) -> tuple[Config, Path]:
    path = config_path(given)
    try:
        return load(path), path
    except ConfigError as error:
        _end(str(error))


def _stream(config: Config, path: Path, name: str | None, endpoint: str | None) -> Stream:
    """The stream to ask as. Ends the command if there is none, or none with a secret."""
    name = name or config.default_stream
    if name not in config.stream:
        known = ", ".join(config.stream) or "a [stream.NAME] table in the configuration"
        found = "another name" if name else "no stream"
        raise click.UsageError(f"cannot tell which stream: found {found}, expected one of {known}")
    alone = replace(config, stream={str(name): config.stream[str(name)]})
    made, problems = wiring.streams(alone, os.environ, credentials_folder(path))
    stream = made[str(name)]
    if stream.secret is None:
        lack = f"there is no api_secret; run: ga4-agent secret set {name}"
        _end("\n".join(problems or [f"cannot ask GA4 as the stream {name}: {lack}"]))
    return replace(stream, endpoint=_checked(endpoint)) if endpoint else stream


def _checked(endpoint: str) -> str:
    reader = addresses.endpoint()
    try:
        return str(reader.read(endpoint))
    except MisfitError as error:
        raise click.UsageError(
            f"cannot ask there: found {error.found}, expected {reader.expected}"
        ) from None


def _theirs(config: Config, stream: Stream, text: bytes) -> tuple[Finding, ...]:
    try:
        body = live.enforced(text)
    except jsontext.NotJson as error:
        _end(f"cannot read the body: {error}")
    network = config.network
    ca_file = str(network.ca_file) if network.ca_file else None
    try:
        with Client(
            proxy=network.proxy, ca_file=ca_file, deadline=config.delivery.timeout
        ) as client:
            return live.ask(client, stream, body)
    except live.CannotAsk as error:
        _end(_plain(f"cannot ask GA4: {error}"))
    except OSError as error:
        _end(f"cannot use the certificates ([network] ca_file): {error.strerror}")


def _ours(config: Config, stream: Stream, text: bytes) -> tuple[Finding, ...]:
    answer = wiring.debug_answer(config, Clock(), stream.name, text)
    return tuple(Finding.of(message) for message in answer["validationMessages"])


def _document(stream: Stream, comparison: Comparison) -> dict[str, Any]:
    return {
        "stream": stream.name,
        "both": [
            {"ga4": theirs.document(), "agent": [each.document() for each in ours]}
            for theirs, ours in comparison.both
        ],
        "only_ga4": [each.document() for each in comparison.only_ga4],
        "only_agent": [each.document() for each in comparison.only_agent],
        "secret_checked": False,
    }


def _report(stream: Stream, comparison: Comparison, *, silent: bool) -> Iterator[str]:
    yield f"asked GA4's debug endpoint as {stream.name}, with ENFORCE_RECOMMENDATIONS"
    if comparison.both:
        yield "GA4 and the agent say:"
        for theirs, ours in comparison.both[:SHOWN]:
            yield f"  GA4    {_sentence(theirs)}"
            yield from (f"  agent  {_sentence(each)}" for each in ours[:SHOWN])
    if comparison.only_ga4:
        yield f"only GA4 says ({BEYOND}):"
        yield from _sentences(comparison.only_ga4)
    if comparison.only_agent:
        yield f"only the agent says ({SILENT if silent else SHORT}):"
        yield from _sentences(comparison.only_agent)
    if not (comparison.both or comparison.only_ga4 or comparison.only_agent):
        yield "GA4 and the agent find nothing wrong"
    id_name = "firebase_app_id" if stream.is_app else "measurement_id"
    yield (
        f"not checked: the api_secret and the {id_name}; nowhere does GA4 answer otherwise to "
        "wrong ones"
    )


def _sentences(findings: Sequence[Finding]) -> Iterator[str]:
    for each in findings[:SHOWN]:
        yield f"  {_sentence(each)}"
    if len(findings) > SHOWN:
        yield f"  … and {len(findings) - SHOWN} more; --json has all"


def _sentence(finding: Finding) -> str:
    code = finding.code or "no code"
    unknown = "" if finding.known or not finding.code else " (a code that is not documented)"
    where = f"{finding.path}: " if finding.path else ""
    return f"{code}{unknown}  {where}{finding.description or 'no description'}"


def _plain(text: str) -> str:
    """Without what a terminal would obey: somebody else wrote it."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _end(reason: str) -> NoReturn:
    click.echo(reason, err=True)
    sys.exit(2)
