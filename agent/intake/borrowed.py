"""Ids that others made: Google's cookies, and keys such as a card's number. Pure.

Google documents no cookie's layout; those that are in use are in `tests/intake/cookies.json`.
What has another layout gives no id: a wrong one would put events on another visitor.
"""

import hashlib
import hmac
import re
from collections.abc import Iterator
from dataclasses import dataclass

from agent.secret import Secret

CLIENT_COOKIE = "_ga"
SESSION_COOKIE = "_ga_"  # and the container: the measurement id without its G-
HEADER = "cookie:"

# The level is "1", "2" or with a path's depth "4-2"; the id is behind it, and nothing behind that.
CLIENT = re.compile(r"GA1\.[0-9-]+\.([0-9]{1,20}\.[0-9]{1,20})")
OLDER_SESSION = re.compile(r"GS1\.[0-9-]+\.([1-9][0-9]{0,17})(?:\..*)?", re.DOTALL)
NEWER_SESSION = re.compile(r"GS2\.[0-9-]+\.(.*)", re.DOTALL)
NEWER_SESSION_PART = re.compile(r"s([1-9][0-9]{0,17})")
ESCAPED_SEPARATOR = re.compile("%24")  # some programs write cookies with every sign escaped

SALT_MIN = 16  # characters
SPAN = 2**31 - 1  # each of an id's two numbers is 1 to this, as Google's own are


@dataclass(frozen=True, slots=True)
class Borrowed:
    """Who a visitor is in another place, as far as the cookies say it."""

    client_id: str | None
    session_id: int | None


NOBODY = Borrowed(None, None)


def client_id_of(text: str) -> str | None:
    """The client id in a ``_ga`` cookie's value; None for any other text, a plain id included."""
    found = CLIENT.fullmatch(text.strip())
    return found[1] if found else None


def session_of(text: str) -> int | None:
    """The session id in the value of a stream's ``_ga_…`` cookie; None if it holds none."""
    text = text.strip()
    older = OLDER_SESSION.fullmatch(text)
    if older:
        return int(older[1])
    newer = NEWER_SESSION.fullmatch(text)
    if not newer:
        return None
    # The order of the parts is not fixed; a letter in front says what each is.
    parts = ESCAPED_SEPARATOR.sub("$", newer[1]).split("$")
    found = next(filter(None, map(NEWER_SESSION_PART.fullmatch, parts)), None)
    return int(found[1]) if found else None


def from_cookies(header: str, measurement_id: str | None) -> Borrowed:
    """What a ``Cookie`` header says of the visitor, to the stream with this measurement id.

    None: an app stream, whose sessions are in no cookie. Of several cookies with one name the
    first that can be read counts: browsers send the nearest first.
    """
    pairs = list(_pairs(header))
    clients = [client_id_of(value) for name, value in pairs if name == CLIENT_COOKIE]
    own = SESSION_COOKIE + measurement_id.removeprefix("G-") if measurement_id else None
    sessions = [session_of(value) for name, value in pairs if name == own]
    return Borrowed(next(filter(None, clients), None), next(filter(None, sessions), None))


def _pairs(header: str) -> Iterator[tuple[str, str]]:
    """Names and values. Not with http.cookies: it drops all of a header for one odd cookie in it."""
    header = header.strip()
    if header[: len(HEADER)].lower() == HEADER:
        header = header[len(HEADER) :]
    for pair in header.split(";"):
        name, _, value = pair.partition("=")
        yield name.strip(), value.strip().removeprefix('"').removesuffix('"')


def keyed_id(key: str, salt: Secret) -> str:
    """The client id that stands for a key, such as a card's number; always the same.

    Without the salt nobody can turn it back. The key is taken as it is; an empty one would make one visitor of all who have none, so the
    caller must not ask for it.
    """
    digest = hmac.digest(_bytes(salt.reveal()), _bytes(key), hashlib.sha256)
    first, second = int.from_bytes(digest[:16]), int.from_bytes(digest[16:])
    return f"{first % SPAN + 1}.{second % SPAN + 1}"


def salt_problem(salt: Secret) -> str | None:
    """Why the salt does not do; None if it does.

    Card numbers are few enough to try them all: only the salt keeps them secret.
    """
    length = len(salt.reveal())
    if length >= SALT_MIN:
        return None
    return (
        f"found a salt of {length} characters, expected at least {SALT_MIN}: with a short one keys "
        "can be guessed from the ids; make one with: openssl rand -hex 32"
    )


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
