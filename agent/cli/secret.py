"""``ga4-agent secret``: put a stream's api_secret in its place, and tell secrets apart."""

import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agent.cli.options import CONFIG
from agent.cli.plainly import asking

if TYPE_CHECKING:
    from agent.config import Config
    from agent.secret import Secret

CREDENTIALS = "credentials"  # the folder beside the configuration whose files systemd hands over
FOLDER = "CREDENTIALS_DIRECTORY"  # the variable in which systemd names the folder to read
MODE = 0o640
FOLDER_MODE = 0o755  # as systemd makes it; the service's user must get through to the file
WHERE = "Admin > Data streams > Measurement Protocol API secrets"
UNLIKELY = {
    "a measurement id": r"^G-[A-Z0-9]{4,14}$",
    "a Firebase app id": r"^\d+:\d+:(android|ios|web):[0-9a-f]+$",
    "a space in it": r"\s",
}
READ_MAX = 64 * 1024  # bytes: enough to see that it is no secret


@click.group("secret")
def command() -> None:
    """Look after the api_secret of a stream.

    Whether a secret is right nobody can tell: GA4 answers the same to a wrong one.

    Exit status: 0 done, 1 not done, 2 wrong usage or configuration.
    """


@command.command("set")
@CONFIG
@click.argument("stream", required=False)
@click.argument("more", nargs=-1, metavar="")
def set_secret(config: Path | None, stream: str | None, more: Sequence[str]) -> None:
    """Write a stream's api_secret into its file: typed unseen, or from standard input.

    The file is the stream's api_secret_file, else credentials/STREAM beside the configuration,
    which the service reads at its start.

    Exit status: 0 written, 1 not written, 2 wrong usage or configuration.
    """
    from agent import atomic_file
    from agent.secret import SecretError, clean

    if more:  # click's own message would repeat it
        raise click.UsageError(
            "cannot take a secret from the command line, where everybody can read it: type it "
            "when asked, or hand it in on standard input; this one is not secret any more"
        )
    loaded, path = _load(config)
    name = _stream(loaded, stream)
    try:
        secret = clean(_asked(name), place="what was handed in")
    except SecretError as error:
        sys.exit(str(error))
    _expect_likely(secret)
    file = loaded.stream[name].api_secret_file
    target = file or _credentials(path) / name
    try:
        target.parent.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        owner = _owner(target, loaded.state_directory)
        atomic_file.write(target, secret.reveal().encode() + b"\n", mode=MODE, owner=owner)
    except PermissionError:
        sys.exit(f"cannot write {target}: you may not; run this as root")
    except OSError as error:
        sys.exit(f"cannot write {target}: {error.strerror}")
    how = "systemctl reload ga4-agent" if file else "systemctl restart ga4-agent"
    click.echo(f"the api_secret of {name} ({secret.fingerprint}) is in {target}; next: {how}")


@command.command("fingerprint")
@CONFIG
@click.argument("stream", required=False)
@click.option("--json", "as_json", is_flag=True, help="JSON for programs.")
def fingerprint(config: Path | None, stream: str | None, *, as_json: bool) -> None:
    """Show eight digits by which two secrets can be told apart, for each stream.

    Looks where the daemon looks, and into the credentials that systemd hands to the service.

    Exit status: 0 each has a secret, 1 one has none, 2 wrong usage or configuration.
    """
    from agent.secret import SecretError

    loaded, path = _load(config)
    names = list(loaded.stream) if stream is None and loaded.stream else [_stream(loaded, stream)]
    found: dict[str, str | None] = {}
    for name in names:
        try:
            secret = _find(loaded, path, name, os.environ)
        except SecretError as error:
            click.echo(str(error), err=True)
            secret = None
        found[name] = secret.fingerprint if secret else None
    if as_json:
        click.echo(json.dumps(found))
    else:
        width = max(map(len, found))
        for name, digits in found.items():
            missing = f"found no secret; run: ga4-agent secret set {name}"
            click.echo(f"{name:{width}}  {digits or missing}")
    sys.exit(0 if all(found.values()) else 1)


def _load(config: Path | None) -> "tuple[Config, Path]":
    from agent.boot_config import config_path
    from agent.config import ConfigError, load

    path = config_path(config)
    try:
        return load(path), path
    except ConfigError as error:
        click.echo(str(error), err=True)
        sys.exit(2)


def _stream(config: "Config", name: str | None) -> str:
    known = ", ".join(config.stream)
    if name is None and len(config.stream) == 1:
        return known
    if name in config.stream:
        return str(name)
    # Another name is not repeated: some write the secret itself there.
    found = "another name" if name else f"{len(config.stream)} streams"
    expected = f"one of {known}" if known else "a [stream.NAME] table in the configuration"
    raise click.UsageError(f"cannot tell which stream: found {found}, expected {expected}")


def _asked(name: str) -> bytes:
    """The secret, never from the command line: everybody can read the list of processes."""
    if not sys.stdin.isatty():
        return sys.stdin.buffer.read(READ_MAX)
    try:
        with asking("nothing written"):
            typed: str = click.prompt(f"api_secret of the stream {name}", hide_input=True, err=True)
    except UnicodeDecodeError:  # it holds what was typed, so it goes no further
        return b"\xff"  # which is refused as no UTF-8
    return typed.encode("utf-8", "surrogateescape")


def _expect_likely(secret: "Secret") -> None:
    """GA4 answers the same to a wrong secret: what surely is none must not get this far."""
    for kind, shape in UNLIKELY.items():
        if re.search(shape, secret.reveal()):
            sys.exit(
                f"cannot take what was handed in: found {kind}, expected the api_secret ({WHERE})"
            )


def _credentials(config: Path) -> Path:
    """The folder, where the configuration is said to be: it may be a link to elsewhere."""
    return config.absolute().parent / CREDENTIALS


def _find(config: "Config", path: Path, name: str, environ: Mapping[str, str]) -> "Secret | None":
    """As the service finds it: file, credential, environment. Raises SecretError."""
    from agent.secret import find_secret

    handed = {FOLDER: environ[FOLDER]} if FOLDER in environ else {}
    file = config.stream[name].api_secret_file
    return find_secret(
        credential=f"api_secret_{name}", file=file, variable="", environ=handed
    ) or find_secret(
        credential=name,
        file=None,
        variable="GA4_API_SECRET",
        environ={**environ, FOLDER: str(_credentials(path))},
    )


def _owner(target: Path, state: Path) -> tuple[int, int] | None:
    """As before; a new file of root's belongs to root and to the service's group."""
    if os.geteuid() != 0:
        return None
    if target.exists():
        found = target.stat()
        return found.st_uid, found.st_gid
    return 0, (state.stat().st_gid if state.exists() else 0)
