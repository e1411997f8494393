"""``emulator``: what it cannot do is said, and its help names all that it can."""

import json
import re
from dataclasses import fields

import pytest

from agent.emulator.faults import KINDS, Fault, read_faults
from tests.cli.running import ga4_agent


@pytest.mark.parametrize(
    "listen",
    ["8790", "127.0.0.1:", "127.0.0.1:99999", "127.0.0.1:" + "9" * 5000, "h:-1", "h:\u0661"],
)
def test_what_is_no_address_is_wrong_usage(listen):
    ended = ga4_agent("emulator", "--listen", listen)
    assert ended.exit_code == 2
    assert f"found {listen}, expected HOST:PORT with a port from 0 to 65535" in ended.stderr


def test_a_record_that_cannot_be_written_is_named(tmp_path):
    path = tmp_path / "none" / "record"
    ended = ga4_agent("emulator", "--listen", "127.0.0.1:0", "--record", str(path))
    assert (ended.exit_code, ended.stderr) == (
        1,
        f"cannot record into {path}: No such file or directory; choose another with --record\n",
    )


def test_the_help_names_every_way_to_fail_and_to_ask():
    text = ga4_agent("emulator", "--help").stdout
    told = set(re.findall(r"[a-z_]+", text))
    assert told >= {*KINDS, *(field.name for field in fields(Fault))}
    for path in ("POST /emulator/fail", "POST /emulator/recover", "GET /emulator/events", "/stats"):
        assert path in " ".join(text.split())
    [example] = re.findall(r"^ *POST /emulator/fail (.*)$", text, re.MULTILINE)
    assert read_faults(json.loads(example)) == (Fault("status", status=429, retry_after="30"),)
