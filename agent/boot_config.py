"""Which configuration to run on: the given one, or the last one that worked.

A broken configuration pushed to a thousand kiosks must not stop a thousand kiosks: it is
refused, loudly, and the agent runs on the last good one, after a reboot too.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from agent import atomic_file
from agent.config import Config, ConfigError, load, parse

LAST_GOOD = "last-good.toml"
VARIABLE = "GA4_AGENT_CONFIG"
# Not tomllib: what is looked for is most needed when the rest is no TOML.
SAID = re.compile(r"""^\s*state_directory\s*=\s*["'](/[^"'\n]+)["']""", re.MULTILINE)
DEFAULT = Path("/etc/ga4-agent/agent.toml")


@dataclass(frozen=True, slots=True)
class Chosen:
    """The configuration to run on, its text, and what is wrong with the given one, if so."""

    config: Config
    text: bytes
    problems: tuple[str, ...] = ()


def config_path(given: Path | None, environ: Mapping[str, str] = os.environ) -> Path:
    """The file to read: as given, else from the environment, else the usual place."""
    return given or Path(environ.get(VARIABLE) or DEFAULT)


def credentials_folder(path: Path) -> Path:
    """The folder of secrets, a file for each stream, that systemd hands to the service."""
    return path.absolute().parent / "credentials"


def choose(path: Path, *, environ: Mapping[str, str]) -> Chosen:
    """Load the file or, if it is no good, the last one that was. Raises ConfigError if none."""
    try:
        return Chosen(load(path), path.read_bytes())
    except ConfigError as error:
        kept = state_directory(path, environ) / LAST_GOOD
        try:
            text = kept.read_bytes()
            config = parse(text.decode(), name=str(kept))
        except (OSError, UnicodeDecodeError, ConfigError):
            raise error from None
        return Chosen(config, text, tuple(str(problem) for problem in error.problems))


def keep(text: bytes, directory: Path) -> None:
    """Remember a configuration that works. Raises OSError."""
    path = directory / LAST_GOOD
    if not path.exists() or path.read_bytes() != text:
        atomic_file.write(path, text)


def state_directory(path: Path, environ: Mapping[str, str]) -> Path:
    """The state directory that a configuration, broken as it may be, most probably means."""
    try:
        # A pipe would keep us waiting for ever.
        said = SAID.search(path.read_text("utf-8-sig", "replace")) if path.is_file() else None
    except OSError:
        said = None
    if said:
        return Path(said[1])
    return Path(environ.get("STATE_DIRECTORY") or Config().state_directory)
