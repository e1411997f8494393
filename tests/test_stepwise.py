"""What kills the process is found after the third death, and set aside by the fourth run."""

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from agent.clock import Clock
from agent.stepwise import RUN_FILE, TOUCHING_FILE, WINDOW, Autopsy, Runs, Stepwise

ROOT = Path(__file__).parents[1]
# Runs as the daemon does, at a moment and in a boot of the test's choosing, and ends as told.
RUN = """
import os, sys
from pathlib import Path
from agent.clock import Clock
from agent.stepwise import Runs, Stepwise
directory, boot, at, end, *names = sys.argv[1:]
clock = Clock(boot=lambda: int(float(at) * 1e6), boot_id=boot, synchronised=lambda: False)
runs = Runs(directory=Path(directory), clock=clock)
autopsy = runs.begin()
runs.set_aside()
stepwise = Stepwise(directory=Path(directory), deaths=autopsy.deaths)
for name in names[:-1]:
    with stepwise.step() as touch:
        touch(name)
with stepwise.step() as touch:
    touch(*names[-1:])
    if end == "dies":
        os._exit(1)
    if end == "raises":
        raise RuntimeError("a bug")
runs.end()
"""


@pytest.fixture
def run(tmp_path):
    """Run a daemon to its end, in a process of its own."""

    def run(end, *names, boot="boot", at=1000.0):
        command = [sys.executable, "-c", RUN, str(tmp_path), boot, str(at), end, *names]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=30, check=False)
        assert done.returncode == (0 if end == "ends" else 1), done.stderr

    return run


@pytest.fixture
def autopsy(tmp_path):
    """What the next start finds."""

    def autopsy(*, boot="boot", at=1000.0):
        clock = Clock(boot=lambda: int(at * 1e6), boot_id=boot, synchronised=lambda: False)
        return Runs(directory=tmp_path, clock=clock).begin()

    return autopsy


def test_the_first_start_finds_nothing(autopsy):
    assert autopsy() == Autopsy(0, ())


def test_a_clean_end_leaves_no_death_and_no_culprit(run, autopsy, tmp_path):
    run("ends", "row:1")
    assert autopsy() == Autopsy(0, ())
    assert not (tmp_path / TOUCHING_FILE).exists()


def test_deaths_are_counted_one_after_the_other(run, autopsy):
    run("dies", "row:1")
    run("dies", "row:1", at=1001.0)
    assert autopsy(at=1002.0).deaths == 2


@pytest.mark.parametrize(
    ("later", "deaths"), [(WINDOW - 1, 2), (WINDOW, 1), (WINDOW + 1, 1), (10 * WINDOW, 1)]
)
def test_only_deaths_within_ten_minutes_count_together(run, autopsy, later, deaths):
    run("dies", "row:1")
    run("dies", "row:1", at=1000.0)
    assert autopsy(at=1000.0 + later).deaths == deaths


def test_a_power_cut_is_nobodys_fault(run, autopsy):
    """Another boot: neither deaths nor culprits are carried over."""
    for second in range(3):
        run("dies", "row:1", at=1000.0 + second)
    assert autopsy(boot="another", at=10.0) == Autopsy(0, ())


def test_a_clean_end_between_deaths_adds_none(run, autopsy):
    run("dies", "row:1")
    run("ends", at=1001.0)
    assert autopsy(at=1002.0) == Autopsy(1, ())


def test_two_deaths_are_too_few_to_name_a_culprit(run, autopsy):
    for second in range(2):
        run("dies", "row:1", at=1000.0 + second)
    assert autopsy(at=1002.0) == Autopsy(2, ())


def test_the_third_death_names_its_culprit(run, autopsy):
    for second in range(2):
        run("dies", "row:1", "row:2", at=1000.0 + second)
    run("dies", "row:1", "row:2", at=1002.0)
    assert autopsy(at=1003.0) == Autopsy(3, ("row:2",))


def test_all_that_was_touched_in_one_step_is_named(run, autopsy, tmp_path):
    for second in range(2):
        run("dies", "row:1", at=1000.0 + second)
    stepwise = Stepwise(directory=tmp_path, deaths=2)
    with stepwise.step() as touch:
        touch("row:7", "row:8", "message:abc")
        left = (tmp_path / TOUCHING_FILE).read_bytes()
    (tmp_path / TOUCHING_FILE).write_bytes(left)  # as if it had died before the step's end
    assert autopsy(at=1003.0).culprits == ("row:7", "row:8", "message:abc")


def test_an_exception_that_ends_the_process_names_its_culprit_too(run, autopsy):
    for second in range(3):
        run("raises", "row:9", at=1000.0 + second)
    assert autopsy(at=1003.0).culprits == ("row:9",)


def test_a_culprit_that_was_set_aside_is_not_named_again(run, autopsy):
    for second in range(3):
        run("dies", "row:1", at=1000.0 + second)
    run("dies", at=1003.0)  # it sets row:1 aside, and dies of something else
    assert autopsy(at=1004.0).culprits == ()


def test_what_a_clean_end_left_behind_is_nobodys_fault(autopsy, tmp_path):
    (tmp_path / RUN_FILE).write_text(json.dumps({"boot_id": "boot", "running": False}))
    (tmp_path / TOUCHING_FILE).write_text("row:1")
    assert autopsy() == Autopsy(0, ())


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b"7", b"null"])
def test_a_damaged_record_of_runs_is_no_record(autopsy, tmp_path, content):
    (tmp_path / RUN_FILE).write_bytes(content)
    assert autopsy() == Autopsy(0, ())


def test_a_damaged_name_is_no_culprit(run, autopsy, tmp_path):
    run("dies")
    (tmp_path / TOUCHING_FILE).write_bytes(b"\xff\xfe")
    assert autopsy().culprits == ()


@pytest.mark.parametrize(("deaths", "active"), [(0, False), (1, False), (2, True), (9, True)])
def test_it_goes_step_by_step_after_two_deaths(tmp_path, deaths, active):
    assert Stepwise(directory=tmp_path, deaths=deaths).active == active


def test_it_goes_step_by_step_for_ten_minutes(tmp_path):
    now = [50.0]
    stepwise = Stepwise(directory=tmp_path, deaths=2, monotonic=lambda: now[0])
    now[0] += WINDOW - 1
    assert stepwise.active
    now[0] += 1
    assert not stepwise.active


def test_a_name_is_on_the_disk_while_it_is_touched_and_gone_after(tmp_path):
    file = tmp_path / TOUCHING_FILE
    stepwise = Stepwise(directory=tmp_path, deaths=2)
    with stepwise.step() as touch:
        touch("row:1")
        assert file.read_text() == "row:1"
        touch("row:2", "row:3")
        assert file.read_text() == "row:2\nrow:3"
    assert not file.exists()


def test_a_step_that_touches_nothing_leaves_nothing(tmp_path):
    with Stepwise(directory=tmp_path, deaths=2).step():
        pass
    assert list(tmp_path.iterdir()) == []


def test_there_is_one_step_at_a_time_in_the_whole_process(tmp_path):
    """Else there would be two names, and a death would be blamed on both."""
    stepwise = Stepwise(directory=tmp_path, deaths=2)
    entered, seen = threading.Event(), []

    def other():
        entered.set()
        with stepwise.step() as touch:
            touch("message:b")
            seen.append("b")

    thread = threading.Thread(target=other)
    with stepwise.step() as touch:
        touch("row:a")
        thread.start()
        assert entered.wait(10)
        thread.join(0.05)
        seen.append("a")
        assert (tmp_path / TOUCHING_FILE).read_text() == "row:a"
    thread.join(10)
    assert seen == ["a", "b"]


def test_at_its_usual_pace_it_writes_nothing_and_holds_up_nobody(tmp_path):
    stepwise = Stepwise(directory=tmp_path)
    with stepwise.step() as touch, stepwise.step() as other:
        touch("row:1")
        other("row:2")
        assert list(tmp_path.iterdir()) == []
