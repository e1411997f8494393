"""Secrets: where they are found, what is refused, and that nothing gives them away."""

import copy
import dataclasses
import hashlib
import json
import os
import pickle
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.secret import Secret, SecretError, find_secret

TEXT = "s3cr3t-value-of-a-stream"


def find(*, file=None, **environ):
    return find_secret(
        credential="api_secret_main", file=file, variable="GA4_API_SECRET", environ=environ
    )


def private(path, content, mode=0o640):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    path.chmod(mode)
    return path


def refusal(**places):
    with pytest.raises(SecretError) as refused:
        find(**places)
    shown = "".join(traceback.format_exception(refused.value))
    assert TEXT not in shown
    return str(refused.value)


def test_the_fingerprint_is_the_head_of_a_prefixed_sha256():
    digest = hashlib.sha256(f"ga4-device-agent:{TEXT}".encode()).hexdigest()
    assert Secret(TEXT).fingerprint == digest[:8]


@pytest.mark.parametrize(
    "show",
    [
        repr,
        str,
        ascii,
        "{}".format,
        "{!r:>40}".format,
        "{:>40}".format,
        lambda secret: f"{[secret]} {(secret, {'a': secret})}",
        lambda secret: "%s %r" % (secret, secret),  # noqa: UP031  logging formats like this
    ],
)
def test_a_secret_shows_its_fingerprint_only(show):
    shown = show(Secret(TEXT))
    assert TEXT not in shown
    assert f"Secret({Secret(TEXT).fingerprint})" in shown


def test_only_reveal_gives_the_text():
    assert Secret(TEXT).reveal() == TEXT


@pytest.mark.parametrize(
    "leak",
    [
        iter,
        len,
        vars,
        json.dumps,
        pickle.dumps,
        lambda secret: secret + "",
        lambda secret: secret[0],
        lambda secret: TEXT in secret,
        "".join,
    ],
)
def test_a_secret_cannot_be_used_as_a_text_or_pickled(leak):
    with pytest.raises((TypeError, AttributeError)) as refused:
        leak(Secret(TEXT))
    assert TEXT not in str(refused.value)


def test_a_secret_cannot_be_changed():
    secret = Secret(TEXT)
    with pytest.raises(AttributeError):
        secret.value = "other"
    with pytest.raises(AttributeError):
        secret._Secret__value = "other"
    with pytest.raises(AttributeError):
        del secret._Secret__value
    assert secret.reveal() == TEXT


def test_an_empty_secret_cannot_be_made():
    with pytest.raises(ValueError, match="expected some"):
        Secret("")


def test_secrets_are_equal_by_their_text():
    assert Secret(TEXT) == Secret(TEXT)
    assert Secret(TEXT) != Secret(TEXT + "x")
    assert Secret(TEXT) != TEXT
    assert len({Secret(TEXT), Secret(TEXT), Secret("ä")}) == 2


def test_copies_of_what_holds_a_secret_hold_the_same_secret():
    @dataclasses.dataclass
    class Holder:
        secret: Secret

    holder = Holder(Secret(TEXT))
    assert copy.deepcopy(holder).secret is holder.secret
    assert copy.copy(holder.secret) is holder.secret
    assert TEXT not in repr(dataclasses.asdict(holder))


def test_without_any_place_there_is_no_secret(tmp_path):
    assert find() is None
    assert find(CREDENTIALS_DIRECTORY=str(tmp_path)) is None
    assert find(CREDENTIALS_DIRECTORY="") is None


def test_the_file_goes_before_the_credential_and_that_before_the_environment(tmp_path):
    file = private(tmp_path / "file", "from-file")
    private(tmp_path / "api_secret_main", "from-credential")
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path), "GA4_API_SECRET": "from-environment"}
    assert find(file=file, **environ) == Secret("from-file")
    assert find(**environ) == Secret("from-credential")
    (tmp_path / "api_secret_main").unlink()
    assert find(**environ) == Secret("from-environment")


def test_a_configured_file_that_cannot_be_used_is_not_replaced_by_another_place(tmp_path):
    missing = tmp_path / "missing"
    assert refusal(file=missing, GA4_API_SECRET=TEXT) == (
        f"cannot use {missing}: found no such file, expected a readable file with the secret; "
        "write the secret into it (mode 0640), or take its setting out of the configuration"
    )


@pytest.mark.parametrize(
    "content",
    [
        TEXT,
        TEXT + "\n",
        TEXT + "\r\n",
        f"  {TEXT}\t\n\n",
        "\ufeff" + TEXT,
        f"\n\ufeff {TEXT} \ufeff\n",
    ],
)
def test_whitespace_newlines_and_byte_order_marks_around_a_secret_are_stripped(tmp_path, content):
    file = private(tmp_path / "file", content)
    assert find(file=file) == Secret(TEXT)
    assert find(GA4_API_SECRET=content) == Secret(TEXT)


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o602, 0o601, 0o777])
def test_a_configured_file_that_others_can_use_is_refused(tmp_path, mode):
    file = private(tmp_path / "the file", TEXT, mode)
    assert refusal(file=file) == (
        f"cannot use {file}: found mode {mode:04o}, expected no access for others; "
        f"run: chmod o-rwx '{file}'"
    )


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o660, 0o400])
def test_a_configured_file_for_owner_and_group_is_taken(tmp_path, mode):
    assert find(file=private(tmp_path / "file", TEXT, mode)) == Secret(TEXT)


def test_the_mode_of_a_credential_is_the_business_of_systemd(tmp_path):
    private(tmp_path / "api_secret_main", TEXT, 0o444)
    assert find(CREDENTIALS_DIRECTORY=str(tmp_path)) == Secret(TEXT)


def test_a_link_is_judged_by_the_file_that_it_leads_to(tmp_path):
    link = tmp_path / "link"
    link.symlink_to(private(tmp_path / "file", TEXT, 0o644))
    assert f"cannot use {link}: found mode 0644" in refusal(file=link)
    (tmp_path / "file").chmod(0o640)
    assert find(file=link) == Secret(TEXT)


NO_TEXT = "found no text, expected the secret; write it there"
NOT_ONE_LINE = (
    "found several lines or invisible characters, "
    "expected one line with nothing but the secret; write it there anew"
)
NOT_UTF8 = "found text that is not UTF-8, expected UTF-8; save it anew as that"
TOO_LONG = "found more than 4 KiB, expected one line with the secret"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", NO_TEXT),
        (b" \n\xef\xbb\xbf\n", NO_TEXT),
        (TEXT.encode() + b"\n" + TEXT.encode(), NOT_ONE_LINE),
        (TEXT.encode() + b"\0" + TEXT.encode(), NOT_ONE_LINE),
        ((TEXT + "\u200b" + TEXT).encode(), NOT_ONE_LINE),
        (TEXT.encode() + b"\xff", NOT_UTF8),
        (TEXT.encode("utf-16"), NOT_UTF8),
        (TEXT.encode() * 200, TOO_LONG),
    ],
)
def test_what_can_only_be_damage_is_refused_wherever_it_lies(tmp_path, content, message):
    file = private(tmp_path / "file", content)
    assert refusal(file=file) == f"cannot use {file}: {message}"

    credential = private(tmp_path / "api_secret_main", content)
    shown = refusal(CREDENTIALS_DIRECTORY=str(tmp_path), GA4_API_SECRET=TEXT)
    assert shown == f"cannot use {credential}: {message}"

    text = os.fsdecode(content)
    assert refusal(GA4_API_SECRET=text) == (
        f"cannot use the environment variable GA4_API_SECRET: {message}"
    )


def test_the_longest_secret_has_4_kib(tmp_path):
    assert find(file=private(tmp_path / "file", "x" * 4096)) == Secret("x" * 4096)
    assert TOO_LONG in refusal(file=private(tmp_path / "file", "x" * 4097))


def test_bytes_that_are_not_utf8_do_not_travel_in_the_exception(tmp_path):
    file = private(tmp_path / "file", TEXT.encode() + b"\xff")
    with pytest.raises(SecretError) as refused:
        find(file=file)
    assert refused.value.__context__ is None


def test_a_folder_and_a_pipe_are_refused_without_waiting_for_a_writer(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o600)
    for path in (tmp_path, pipe):
        assert refusal(file=path) == (
            f"cannot use {path}: found no regular file, expected one with the secret"
        )


def test_an_unusable_credentials_folder_is_said_not_passed_over(tmp_path):
    folder = tmp_path / ("x" * 300)
    assert "expected a readable file with the secret" in refusal(CREDENTIALS_DIRECTORY=str(folder))


def test_a_path_through_a_file_says_so(tmp_path):
    path = private(tmp_path / "file", TEXT) / "secret"
    assert "found a path that leads through something that is no folder" in refusal(file=path)


@given(content=st.binary(max_size=40) | st.text(max_size=40).map(lambda text: text.encode()))
def test_any_content_is_a_clean_secret_or_refused(tmp_path_factory, content):
    file = private(tmp_path_factory.getbasetemp() / "any", content)
    try:
        secret = find(file=file)
    except SecretError:
        return
    assert secret.reveal()
    assert secret.reveal() == secret.reveal().strip()
    assert secret.reveal() in content.decode()
