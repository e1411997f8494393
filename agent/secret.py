"""Secrets: where they are looked for, and a value that cannot be printed by accident.

A secret leaves this module as a `Secret`. Its text is given only by `Secret.reveal`, so that
every place that uses one can be found by that word; logs and people get the fingerprint.
"""

import errno
import hashlib
import hmac
import os
import shlex
import stat
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NoReturn, Self

_BYTES_MAX: Final = 4096
_REASONS: Final[Mapping[int, str]] = {
    errno.ENOENT: "no such file",
    errno.EACCES: "no permission to read it",
    errno.ELOOP: "a link that leads back to itself",
    errno.ENOTDIR: "a path that leads through something that is no folder",
}


class SecretError(Exception):
    """A secret that cannot be used. The message says where it lies and what to do, never it."""


class Secret:
    """A secret text. It compares with other secrets; only `reveal` gives it away."""

    __slots__ = ("__value",)
    __value: str

    def __init__(self, value: str) -> None:
        if not value:
            raise ValueError("cannot make a secret: found no text, expected some")
        object.__setattr__(self, "_Secret__value", value)

    def reveal(self) -> str:
        """Give the text itself, to the request that needs it and to nothing else."""
        return self.__value

    @property
    def fingerprint(self) -> str:
        """Eight hex digits by which people can tell two secrets apart.

        The prefix keeps them from being looked up in tables of SHA-256 digests.
        """
        return hashlib.sha256(b"ga4-device-agent:" + self._bytes()).hexdigest()[:8]

    def _bytes(self) -> bytes:
        return self.__value.encode("utf-8", "surrogatepass")

    def __repr__(self) -> str:
        return f"Secret({self.fingerprint})"

    def __format__(self, spec: str) -> str:
        return format(repr(self), spec)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._bytes(), other._bytes())

    def __hash__(self) -> int:
        return hash((Secret, self.__value))

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("cannot change a secret: expected a new one in its place")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError("cannot change a secret: expected a new one in its place")

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        return self

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("cannot pickle a secret: it would leave its hiding place")


def find_secret(
    *, credential: str, file: Path | None, variable: str, environ: Mapping[str, str]
) -> Secret | None:
    """Look in the configured file, else the systemd credential, else the environment.

    `credential` is the name below $CREDENTIALS_DIRECTORY, such as ``api_secret_main``. The first
    place that exists decides: a configured file that cannot be used is an error, not a reason to
    try the next. None: there is no secret anywhere. Raises SecretError.
    """
    if file is not None:
        return clean(_read(file, private=True), place=str(file))
    folder = environ.get("CREDENTIALS_DIRECTORY")
    if folder and _exists(path := Path(folder, credential)):
        return clean(_read(path, private=False), place=str(path))
    if variable in environ:
        # os.environ holds undecodable bytes as surrogates; here they turn back into bytes.
        raw = environ[variable].encode("utf-8", "surrogateescape")
        return clean(raw, place=f"the environment variable {variable}")
    return None


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:
        raise SecretError(_unreadable(path, error)) from error


def _read(path: Path, *, private: bool) -> bytes:
    """Read one byte more than is allowed at most, so that the caller sees what is too long."""
    try:
        # Without O_NONBLOCK a named pipe would hold up the start of the agent for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            _check(path, os.fstat(descriptor), private=private)
            return os.read(descriptor, _BYTES_MAX + 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise SecretError(_unreadable(path, error)) from error


def _check(path: Path, found: os.stat_result, *, private: bool) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise SecretError(f"cannot use {path}: found no regular file, expected one with the secret")
    # The group may read: the service's group is how an unprivileged agent gets at the file.
    if private and found.st_mode & 0o007:
        mode = f"{stat.S_IMODE(found.st_mode):04o}"
        raise SecretError(
            f"cannot use {path}: found mode {mode}, expected no access for others; "
            f"run: chmod o-rwx {shlex.quote(str(path))}"
        )


def _unreadable(path: Path, error: OSError) -> str:
    reason = _REASONS.get(error.errno or 0) or (error.strerror or "an error").lower()
    cure = "write the secret into it (mode 0640), or take its setting out of the configuration"
    if error.errno == errno.EACCES:
        cure = f"run: chgrp ga4-agent {shlex.quote(str(path))}, then: chmod g+r the same"
    return f"cannot use {path}: found {reason}, expected a readable file with the secret; {cure}"


def clean(raw: bytes, *, place: str) -> Secret:
    """The secret in these bytes. `place` is where they were found, for messages.

    Strips what editors and `echo` add; refuses what can only be damage or the wrong file. Raises
    SecretError.
    """
    if len(raw) > _BYTES_MAX:
        raise SecretError(
            f"cannot use {place}: found more than 4 KiB, expected one line with the secret"
        )
    text = _decode(raw)
    if text is None:
        raise SecretError(
            f"cannot use {place}: found text that is not UTF-8, expected UTF-8; save it anew as that"
        )
    text = text.strip().strip("\N{BYTE ORDER MARK}").strip()
    if not text:
        raise SecretError(f"cannot use {place}: found no text, expected the secret; write it there")
    if any(unicodedata.category(character) in {"Cc", "Cf"} for character in text):
        raise SecretError(
            f"cannot use {place}: found several lines or invisible characters, "
            "expected one line with nothing but the secret; write it there anew"
        )
    return Secret(text)


def _decode(raw: bytes) -> str | None:
    # None instead of an exception: UnicodeDecodeError carries the bytes into every traceback.
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return None
