"""What `drain` says of what it could not deliver, on a state directory without a daemon."""

import pytest

from agent.emulator import Emulator, Fault
from tests.cli.running import ga4_agent
from tests.waiting import free_port


@pytest.fixture
def emulator():
    with Emulator(port=free_port()) as emulator:
        yield emulator


@pytest.fixture
def config(tmp_path, emulator, monkeypatch):
    monkeypatch.setenv("GA4_API_SECRET", "s3cr3t-of-the-stream")
    path = tmp_path / "agent.toml"
    path.write_text(
        f'state_directory = "{tmp_path / "state"}"\n'
        f'[stream.main]\nmeasurement_id = "G-ABCDE12345"\nendpoint = "{emulator.url}"\n'
        '[delivery]\nmax_delay = "10 ms"\ntimeout = "2 s"\n'
    )
    return path


@pytest.fixture
def spool(tmp_path):
    folder = tmp_path / "state/spool"
    folder.mkdir(parents=True)
    return folder


def drain(config, timeout, status):
    ended = ga4_agent("drain", "--config", str(config), "--timeout", timeout)
    assert ended.exit_code == status, ended.output
    return ended.output


def test_a_spool_folder_that_was_emptied_too_is_an_empty_queue(config, spool):
    (spool / "a.json").write_text('{"name": "tap"}')
    assert drain(config, "20 s", 0) == "the queue is empty: delivered 1 event\n"


def test_files_in_trouble_are_counted_and_one_is_named(config, spool):
    (spool / "a.json").write_text('{"name": "tap"}')
    for name in ("b.json", "c.json"):
        (spool / name).mkdir()
    said = drain(config, "2 s", 1).splitlines()[-1]
    left = "cannot empty the queue: 2 files in the spool folder left: "
    assert said.startswith(f"{left}cannot read {spool}/b.json: found a folder, expected a file")
    assert said.endswith("; delivered 1 event")


def test_events_and_files_that_are_left_are_both_said(config, spool, emulator):
    emulator.fail(Fault("status", status=503))
    (spool / "a.json").write_text('{"name": "tap"}')
    (spool / "b.json").mkdir()
    said = drain(config, "1500 ms", 1).splitlines()[-1]
    assert said.startswith(
        "cannot empty the queue: 1 event and 1 file in the spool folder left: offline - "
    )
    assert "503" in said
    assert f"; cannot read {spool}/b.json: found a folder" in said


def test_a_file_that_there_was_no_time_for_is_left_and_no_empty_queue(config, spool):
    """Its last line has no end: it may still be being written."""
    (spool / "a.ndjson").write_text('{"name": "tap"}')
    said = drain(config, "100 ms", 1)
    assert said == (
        "cannot empty the queue: 1 file in the spool folder left: "
        "found nothing in the way: give it more time with --timeout; delivered 0 events\n"
    )


def test_a_spool_folder_that_cannot_be_read_is_no_empty_queue(config, spool):
    spool.rmdir()
    spool.write_text("no folder")
    said = drain(config, "200 ms", 1).splitlines()[-1]
    assert said.startswith(f"cannot empty the queue: cannot read the spool folder {spool}: ")
