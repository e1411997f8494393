"""Concurrent posts share their commits: an SD card's fsync takes 5 to 50 ms."""

import os
import re
import shutil
from dataclasses import replace

import pytest

from tests.acceptance.publishers import HttpPrograms
from tests.waiting import until

POSTS = 500
FSYNC = 5000  # microseconds that each is made to take, as on a good SD card


def strace() -> str:
    """Its path. Where it is missing the test is skipped, but never in CI."""
    found = shutil.which("strace")
    if found is None and os.environ.get("CI") == "true":
        pytest.fail("cannot run: found no strace; apt install strace")
    if found is None:
        pytest.skip("found no strace; apt install strace")
    return found


@pytest.mark.slow
def test_500_posts_of_16_programs_cause_far_fewer_fsyncs(make_daemon, setup, emulator, tmp_path):
    emulator.stop()  # only what is taken counts here
    trace = tmp_path / "trace"
    daemon = make_daemon(replace(setup, http="threads = 16"))
    calls = "fsync,fdatasync"
    # With -D the tracer is the grandchild, so that the daemon is the process that was started.
    daemon.program = (
        strace(), "-D", "-f", "--seccomp-bpf", "-o", str(trace), "-e", f"trace={calls}",
        "-e", f"inject={calls}:delay_exit={FSYNC}", *daemon.program,
    )  # fmt: skip
    daemon.start()
    before = synced(trace)
    with HttpPrograms(port=setup.http_port, threads=16, goal=POSTS) as programs:
        programs.wait_acknowledged(POSTS)
    assert daemon.end() == 0
    until(
        lambda: re.search(rf"^{daemon.pid} .*exited with 0", trace.read_text(), re.MULTILINE),
        "its end",
    )
    assert 0 < synced(trace) - before < POSTS / 2
    assert daemon.books().received >= POSTS


def synced(trace) -> int:
    return len(re.findall(r" f(?:data)?sync\(", trace.read_text()))
