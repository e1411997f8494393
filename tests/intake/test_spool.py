"""The spool folder: what is taken, what is left alone, what is moved aside, and kills between."""

import contextlib
import ctypes
import fcntl
import itertools
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.clock import Clock
from agent.event import UNASSIGNED, Event, Priority, RawMessage, Sender, Stamp
from agent.intake import spool_file
from agent.intake.door import Accepted
from agent.intake.parse import REST, TIME_MAX
from agent.intake.source import SourceUnavailable
from agent.intake.spool import BATCH_BYTES, BATCH_DOCUMENTS, SpoolSource
from agent.intake.spool_folder import SpoolFolder, identity_of
from agent.progress import Progress
from agent.queue.entries import SourceState
from agent.queue.event_queue import EventQueue
from agent.stepwise import Stepwise
from tests.intake.rigs import Runner, spool_marks
from tests.intake.stored import events, letters, stored
from tests.waiting import until

HOUR = 3_600_000_000  # microseconds
NOW = 1_800_000_000_000_000
CLOCK = Clock(wall=lambda: NOW, boot=lambda: 10 * HOUR, boot_id="b", synchronised=lambda: True)
NOBODY = 65534
BOM = b"\xef\xbb\xbf"


def tap(number, params=None, **fields):
    """Without an event_id: by that an event would be known again, whatever file it is in."""
    params = {"number": f"e{number}"} | (params or {})
    return json.dumps({"name": "tap", "params": params, **fields}).encode()


def number_of(event):
    """The number that a tap has; of others the event_id."""
    return event.params.get("number", event.event_id)


def number_in(line):
    return json.loads(line)["params"]["number"]


def taps(*numbers, end=b"\n"):
    return b"".join(tap(number) + end for number in numbers)


class Killed(BaseException):
    """What SIGKILL would be."""


class MortalDoor:
    """A door whose process dies around its n-th commit."""

    def __init__(self, door, *, kill_at=0, before=False):
        self._door = door
        self._left = kill_at
        self._before = before
        self.refuse = door.refuse

    def admit_many(self, messages):
        self._left -= 1
        if self._left == 0 and self._before:
            raise Killed
        answers = self._door.admit_many(messages)
        if self._left == 0:
            raise Killed
        return answers


class MeddlesomeDoor:
    """A door that lets somebody do something to the folder between reading and removal."""

    def __init__(self, door, meddle):
        self._door = door
        self._meddle = meddle
        self.refuse = door.refuse

    def admit_many(self, messages):
        self._meddle()
        return self._door.admit_many(messages)


class Spool:
    """A folder, the programs that leave files in it, and a source that looks when it is told."""

    def __init__(self, *, folder, door, queue):
        self.folder = folder
        self.bad = folder / "bad"
        self._door = door
        self._queue = queue
        self._stop = threading.Event()
        self.progress = Progress(name="spool", patience=60)
        self.restart()

    def restart(self, *, door=None, wrap=lambda door: door):
        """A new process on what the last one left."""
        self._door = door or self._door
        self.source = self.make_source(wrap(self._door))
        self.source.prepare()

    def make_source(self, door=None, **options):
        return SpoolSource(
            door=door or self._door,
            clock=CLOCK,
            directory=self.folder,
            marks=lambda: self._queue.source_state("spool"),
            **options,
        )

    def drop(self, name, payload, *, written_us=None):
        """Leave a file as programs should: under a hidden name first."""
        hidden = self.folder / ".new"
        hidden.write_bytes(payload)
        if written_us is not None:
            os.utime(hidden, ns=(written_us * 1000, written_us * 1000))
        return hidden.rename(self.folder / name)

    def look(self, times=1):
        for _ in range(times):
            self.source.take_once(self._stop, self.progress)

    def stop(self):
        self._stop.set()

    @property
    def left(self):
        return sorted(path.name for path in self.folder.iterdir() if path.name != "bad")

    @property
    def set_aside(self):
        return sorted(path.name for path in self.bad.iterdir()) if self.bad.exists() else []

    def reason(self, name):
        return (self.bad / f"{name}.reason").read_text()


@pytest.fixture
def spool(door, queue, tmp_path):
    return Spool(folder=tmp_path / "spool", door=door, queue=queue)


@pytest.fixture
def taken(tmp_path):
    """The ids of the events in the queue, in order."""
    return lambda: ids(tmp_path)


@contextlib.contextmanager
def as_nobody():
    """This thread opens files as nobody does, for root may read everything. See setfsuid(2)."""
    libc = ctypes.CDLL(None)
    libc.setfsuid(NOBODY)
    try:
        yield
    finally:
        libc.setfsuid(os.geteuid())


@pytest.fixture
def public(tmp_path_factory):
    """A folder that nobody may look into; pytest's own are private."""
    with tempfile.TemporaryDirectory(dir="/tmp") as path:
        Path(path).chmod(0o755)
        yield Path(path)


@pytest.fixture
def public_spool(public, make_door):
    """A spool folder that nobody may use."""
    queue = EventQueue.open(public, max_bytes=64 * 1024 * 1024)
    spool = Spool(folder=public / "spool", door=make_door(queue=queue), queue=queue)
    spool.folder.chmod(0o777)
    yield spool
    spool.folder.chmod(0o777)
    queue.close()


def drained(queue):
    """Deliver all there is; the ids."""
    found = []
    while leased := queue.lease("main", limit=25):
        found += [number_of(row.event) for row in leased]
        queue.ack_many([row.id for row in leased])
    return found


def ids(directory):
    return [number_of(event) for event in events(directory)]


# -- what is taken --------------------------------------------------------------------------


def test_only_json_and_ndjson_that_are_not_hidden_are_taken(spool, taken):
    for name in ("a.json", "b.ndjson"):
        spool.drop(name, tap(name))
    others = [".c.json", ".d.ndjson", "e.json.tmp", "f.txt", "g.JSON", "json", "h.jsonl"]
    for name in others:
        spool.drop(name, tap(name))
    spool.look(2)
    assert taken() == ["ea.json", "eb.ndjson"]
    assert spool.left == sorted(others)
    assert spool.source.problem is None


def test_files_are_taken_in_the_order_of_their_names(spool, taken):
    for number in (3, 1, 20, 10, 2):
        spool.drop(f"{number:03}.json", tap(number))
    spool.look()
    assert taken() == ["e1", "e2", "e3", "e10", "e20"]


@pytest.mark.parametrize(
    "text",
    [
        taps(1, 2, 3),
        taps(1, 2, 3, end=b"\r\n"),
        BOM + taps(1, 2, 3),
        b"\n \n" + tap(1) + b"\n\n\t\r\n" + taps(2, 3) + b"\n \n\n",
        taps(1, 2) + tap(3),
        b"[" + tap(1) + b"," + tap(2) + b"]\n" + taps(3),
    ],
    ids=["plain", "CRLF", "BOM", "blank lines", "no newline at the end", "an array in a line"],
)
def test_each_line_of_ndjson_is_a_document(spool, taken, queue, text):
    spool.drop("x.ndjson", text)
    spool.look(2)
    assert taken() == ["e1", "e2", "e3"]
    assert (spool.left, queue.books.dead, queue.books.refused) == ([], 0, {})


@pytest.mark.parametrize(
    "text",
    [
        tap(1),
        BOM + tap(1) + b"\r\n",
        b"[\n" + tap(1) + b"\n]",
        b'{"client_id":"1.1","events":[' + tap(1) + b"]}",
    ],
    ids=["an event", "BOM", "an array", "a Measurement Protocol body"],
)
def test_a_json_file_is_one_document(spool, taken, text):
    spool.drop("x.json", text)
    spool.look()
    assert taken() == ["e1"]


def test_a_bad_line_is_a_dead_letter_and_the_others_are_taken(spool, queue, taken, tmp_path):
    spool.drop("x.ndjson", taps(1) + b'{"name":\n{"nome":1}\n\xff\n' + taps(2))
    spool.look()
    assert taken() == ["e1", "e2"]
    found = [(letter.source, letter.reason, letter.payload) for letter in letters(tmp_path)]
    assert found == [
        ("spool", "malformed", b'{"name":'),
        ("spool", "invalid", b'{"nome":1}'),
        ("spool", "malformed", b"\xff"),
    ]
    assert (spool.left, spool.set_aside, queue.books.refused) == ([], [], {})


def test_a_bad_element_is_a_dead_letter_and_the_others_are_taken(spool, queue, taken, tmp_path):
    spool.drop("x.json", b"[" + tap(1) + b',{"nome":1},' + tap(2) + b"]")
    spool.look()
    assert taken() == ["e1", "e2"]
    assert [letter.payload for letter in letters(tmp_path)] == [b'{"nome":1}']
    assert (spool.left, queue.books.refused, queue.books.balanced) == ([], {}, True)


@pytest.mark.parametrize("over", [0, 1])
def test_a_line_of_over_1_mib_is_a_dead_letter_and_the_next_is_taken(spool, taken, tmp_path, over):
    padded = tap("long")[:-1].ljust(spool_file.LINE_MAX + over - 1) + b"}"
    spool.drop("x.ndjson", taps(1) + padded + b"\n" + taps(2))
    spool.look()
    assert taken() == (["e1", "e2"] if over else ["e1", "elong", "e2"])
    found = [(letter.reason, letter.payload) for letter in letters(tmp_path)]
    cut = padded[: spool_file.LINE_MAX - len(spool_file.CUT)] + spool_file.CUT
    assert found == ([("malformed", cut)] if over else [])
    assert spool.left == []


def test_a_line_without_end_of_many_mib_is_one_dead_letter(spool, taken, tmp_path):
    spool.drop("x.ndjson", taps(1) + b"[" * (5 * spool_file.LINE_MAX + 7))
    spool.look(2)
    assert (taken(), len(letters(tmp_path)), spool.left) == (["e1"], 1, [])


def test_a_line_that_is_cut_is_never_taken_as_whole():
    text = taps(1) + b"1" * (spool_file.LINE_MAX + 1) + b"\n"
    [_, (cut, place)] = lines(text)
    assert cut.endswith(spool_file.CUT)
    assert place.done == len(text)


def lines(text, after=spool_file.START):
    with tempfile.TemporaryFile() as file:
        file.write(text)
        return [*filter(None, spool_file.documents(file, "x.ndjson", size=len(text), after=after))]


@given(
    st.lists(st.sampled_from([b"", b" ", b"{}", b"[1]", b"x", b'"\xc3\xa4"']), max_size=8),
    st.sampled_from([b"\n", b"\r\n"]),
    st.booleans(),
)
def test_a_file_read_on_from_any_position_is_the_rest_of_it(parts, end, ended):
    text = end.join([b"{}", *parts]) + (end if ended else b"")
    whole = lines(text)
    assert [payload for payload, _ in whole] == [b"{}", *(p for p in parts if p.strip())]
    for taken, (_, place) in enumerate(whole, start=1):
        assert lines(text, after=place) == whole[taken:]
        assert lines(text, after=replace(place, check=place.check ^ 1)) == whole


def test_a_refused_document_is_kept_whole_and_comes_back_whole(spool, queue, tmp_path):
    """The file is removed, so the dead letter is all there is of it; an export must hold it too."""
    events = [{"name": f"e{number}", "params": {"x": "y" * 40_000}} for number in range(25)]
    events[-1]["session"] = "typo"
    body = json.dumps({"client_id": "1.1", "events": events}, separators=(",", ":")).encode()
    assert len(body) > 1_000_000
    spool.drop("a.json", body)
    spool.drop("b.ndjson", taps(1) + body + b"\n" + b"{" * 100_000 + b"\n")
    spool.look()
    found = letters(tmp_path)
    assert [letter.payload for letter in found] == [body, body, b"{" * 100_000]
    for name in ("c.ndjson", "d.ndjson"):
        spool.drop(name, b"".join(spool_file.line(letter) + b"\n" for letter in found))
    spool.drop("e.json", spool_file.line(found[0]))
    spool.look()
    assert letters(tmp_path) == [*found, *found, *found, found[0]]
    assert (spool.left, queue.books.refused) == ([], {})


class Watched:
    """Counts signs of life, and does something at the n-th."""

    def __init__(self, *, at=0, act=lambda: None):
        self.beats = 0
        self._at = at
        self._act = act

    def beat(self):
        self.beats += 1
        if self.beats == self._at:
            self._act()


def sparse(size):
    """A line of so many bytes that take no room on the disk."""

    def write(path):
        with path.open("wb") as file:
            file.write(taps(1))
            file.truncate(size)
            file.seek(0, os.SEEK_END)
            file.write(b"\n" + taps(2))

    return write


def blank(size):
    return lambda path: path.write_bytes(taps(1) + b"\n" * size + taps(2))


MANY = 8
LONG = [sparse(MANY * 2**20), blank(MANY * 2**18)]


@pytest.mark.parametrize("write", LONG, ids=["a long line", "blank lines"])
def test_what_has_no_document_for_long_is_no_hang(spool, taken, write):
    write(spool.folder / "x.ndjson")
    progress = Watched()
    spool.source.take_once(threading.Event(), progress)
    assert progress.beats > MANY
    assert (taken(), spool.left) == (["e1", "e2"], [])


@pytest.mark.parametrize("write", LONG, ids=["a long line", "blank lines"])
def test_a_stop_is_heard_where_there_is_no_document_for_long(spool, taken, tmp_path, write):
    write(spool.folder / "x.ndjson")
    stop = threading.Event()
    progress = Watched(at=MANY // 2, act=stop.set)
    spool.source.take_once(stop, progress)
    assert progress.beats < MANY
    assert (taken(), spool.left) == (["e1"], ["x.ndjson"])
    spool.restart()
    spool.look()
    assert (taken(), spool.left) == (["e1", "e2"], [])


# -- what is bad ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("x.json", b"", "found no JSON"),
        ("x.json", b" \n", "found no JSON"),
        ("x.json", b"[]", "found an empty array, expected at least one event"),
        ("x.json", b'{"name":"secret-7731"', "found no JSON"),
        ("x.json", tap(1) + b"\n" + tap(2), "found no JSON: Extra data at line 2"),
        ("x.json", b'{"name":"secret-7731\xff"}', "no UTF-8"),
        ("x.json", b'[{"secret-7731":NaN}]', "found the number NaN"),
        ("x.json", b"[" * 1000 + b"]" * 1000, "nested deeper than"),
        ("x.json", b'["secret-7731"]'.ljust(4 * 2**20 + 1), "found more than 4 MiB, expected less"),
        ("x.json", b"7", "found JSON that is no object, expected events"),
        ("x.json", b'[{"name":"tap"},"secret-7731"]', "found JSON that is no object in an array"),
        ("x.json", b"[[{}]]", "found JSON that is no object in an array"),
        ("x.json", b'{"x":"secret-7731%s"}' % (b"x" * 2**20), "found a document of over 1 MiB"),
        ("x.ndjson", b"7\n" + taps(1), "found JSON that is no object, expected events"),
        ("x.ndjson", b"[1]\n" + taps(1), "found JSON that is no object in an array"),
        ("x.ndjson", b"", "found nothing in it"),
        ("x.ndjson", b"\n \r\n", "found nothing in it"),
        ("x.ndjson", BOM, "found no JSON"),
        ("x.ndjson", bytes(2 * 2**20), "found a first line of over 1 MiB, expected one event"),
        ("x.ndjson", b"name,secret-7731\n" + taps(1), "found no JSON"),
        ("x.ndjson", b"\n[\n" + taps(1) + b"]\n", "found no JSON"),
        ("x.ndjson", '{"name":"secret-7731"}\n'.encode("utf-16"), "no UTF-8"),
    ],
)
def test_what_is_no_file_of_events_is_moved_aside_with_the_reason_and_no_content(  # noqa: PLR0917 - parameters of pytest
    spool, queue, caplog, name, text, why
):
    spool.drop(name, text)
    spool.look(2)
    assert (spool.left, spool.set_aside) == ([], [name, f"{name}.reason"])
    assert (spool.bad / name).read_bytes() == text
    assert spool.reason(name).startswith(f"cannot take {name}: ")
    assert why in spool.reason(name)
    assert "7731" not in spool.reason(name) + caplog.text
    assert why in caplog.text
    assert (queue.books.received, queue.books.refused) == (0, {"bad_file": 1})
    assert spool.source.problem is None


def test_who_writes_too_large_a_file_is_told_the_cure(spool):
    spool.drop("x.json", bytes(5 * 2**20))
    spool.look(2)
    assert "write one event a line into a .ndjson file" in spool.reason("x.json")


def test_the_largest_json_file_is_taken(spool, tmp_path):
    elements = itertools.repeat('{"name":"tap"}', 1000)
    spool.drop("x.json", f"[{','.join(elements)}]".encode().ljust(4 * 2**20))
    spool.look()
    assert len(events(tmp_path)) == 1000


@pytest.mark.parametrize(
    ("name", "half"),
    [
        ("x.json", b"["),
        ("x.json", b""),
        ("x.ndjson", b""),
        ("x.ndjson", b'{"na'),
        ("x.ndjson", taps(1) + b'{"na'),
    ],
)
def test_a_file_that_is_still_being_written_is_not_judged(spool, queue, taken, name, half):
    path = spool.folder / name
    path.write_bytes(half)
    spool.look()
    assert (spool.left, taken()) == ([name], [])
    path.write_bytes(taps(1) + b"\n" if name.endswith("nd") else taps(1))
    spool.look(2)
    assert (spool.left, spool.set_aside, taken()) == ([], [], ["e1"])
    assert (queue.books.dead, queue.books.refused) == (0, {})


def test_a_file_that_is_put_there_by_link_and_unlink_is_taken_after_the_unlink(spool, taken):
    """Until then its time of change is not its last: a kill would have it taken twice."""
    hidden = spool.folder / ".x"
    hidden.write_bytes(tap(1))
    (spool.folder / "x.json").hardlink_to(hidden)
    spool.look()
    assert taken() == []
    hidden.unlink()
    spool.look()
    assert (taken(), spool.left) == (["e1"], [])


def test_a_file_that_keeps_its_second_name_is_taken_all_the_same(spool, taken, tmp_path):
    archive = tmp_path / "archive.json"
    archive.write_bytes(tap(1))
    (spool.folder / "x.json").hardlink_to(archive)
    spool.look(3)
    assert (taken(), spool.left, archive.read_bytes()) == (["e1"], [], tap(1))


def test_bad_files_of_one_name_are_all_kept(spool):
    for number in range(3):
        spool.drop("x.json", f"bad {number}".encode())
        spool.look(2)
    names = [name for name in spool.set_aside if name.endswith(".json")]
    assert spool.set_aside == sorted([*names, *(f"{name}.reason" for name in names)])
    assert {(spool.bad / name).read_bytes() for name in names} == {b"bad 0", b"bad 1", b"bad 2"}


def test_a_name_in_bad_that_is_taken_gets_the_time(tmp_path):
    folder = SpoolFolder(tmp_path, now_ns=iter((5, 6)).__next__)
    for number in range(3):
        (tmp_path / "x.json").write_bytes(b"bad %d" % number)
        assert folder.set_aside("x.json", identity_of((tmp_path / "x.json").stat()), "why")
    names = ["x.json", "x.5.json", "x.6.json"]
    assert [(tmp_path / "bad" / name).read_bytes()[-1:] for name in names] == [b"0", b"1", b"2"]


def test_one_reason_for_moving_files_is_told_once(spool, queue, caplog):
    for number in range(5):
        spool.drop(f"{number}.json", b"bad")
        spool.drop(f"{number}.ndjson", b"7")
        spool.look(2)
    assert (len(spool.set_aside), queue.books.refused) == (20, {"bad_file": 10})
    assert len(caplog.records) == 2


def test_a_good_file_that_was_renamed_over_a_bad_one_is_not_moved(spool, taken):
    spool.drop("x.json", b"bad")
    spool.look()
    spool.drop("x.json", tap(1))
    spool.look(2)
    assert (taken(), spool.set_aside) == (["e1"], [])


def test_a_name_as_long_as_names_can_be_is_moved_aside(spool):
    spool.drop("x" * 250 + ".json", b"bad")
    spool.look(2)
    assert (spool.left, len(spool.set_aside), spool.source.problem) == ([], 2, None)


@pytest.mark.parametrize("name", [b"\xff\xfe.json", "ä %41+?.json".encode(), b"a\nb'\".json"])
def test_a_name_of_any_bytes_is_taken_and_remembered(spool, door, taken, queue, name):
    spool.restart(wrap=lambda door: MortalDoor(door, kill_at=1))
    spool.drop(os.fsdecode(name), tap(1))
    with pytest.raises(Killed):
        spool.look()
    spool.restart()
    spool.look()
    assert (taken(), spool.left) == (["e1"], [])
    spool.drop("after.json", tap(2))
    spool.look()
    assert list(queue.source_state("spool")) == [f"{spool.folder}/after.json"]


@pytest.mark.parametrize("name", [b"\xff\xfe.json", b"a\nb'\".json"])
def test_a_bad_file_whose_name_is_no_text_is_moved_and_told_in_one_line(spool, caplog, name):
    spool.drop(os.fsdecode(name), b"bad")
    spool.look(2)
    assert os.fsdecode(name) in spool.set_aside
    [record] = caplog.records
    record.getMessage().encode()
    assert "\n" not in record.getMessage()
    assert spool.reason(os.fsdecode(name)).count("\n") == 1


def test_what_cannot_be_moved_aside_is_told_once_and_moved_when_it_can_be(spool, queue, caplog):
    spool.bad.write_bytes(b"somebody's file")
    spool.drop("x.json", b"bad")
    spool.drop("y.json", tap(1))
    spool.look(4)
    assert spool.left == ["x.json"]
    assert f"cannot move {spool.folder}/x.json to bad/: " in spool.source.problem
    assert (len(caplog.records), queue.books.refused) == (1, {})
    spool.bad.unlink()
    spool.look(2)
    assert (spool.set_aside, spool.source.problem) == (["x.json", "x.json.reason"], None)
    assert queue.books.refused == {"bad_file": 1}


def test_nothing_is_written_where_somebody_elses_link_leads(spool, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    spool.bad.symlink_to(elsewhere)
    spool.drop("x.json", b"bad")
    spool.look(2)
    assert list(elsewhere.iterdir()) == []
    assert "expected the service's; remove it" in spool.source.problem


def test_the_group_cannot_write_where_bad_files_go(spool):
    spool.drop("x.json", b"bad")
    spool.look(2)
    assert not stat.S_IMODE(spool.bad.stat().st_mode) & 0o027


@pytest.fixture
def small_disk(tmp_path):
    if os.geteuid():
        pytest.skip("needs root, to mount a small file system")
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", path]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs to be allowed to mount a small file system")
    yield path
    subprocess.run(["umount", "--lazy", path], check=True)


def fill_up(path):
    """Take every byte of its disk that is left."""
    with path.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(bytes(4096))


def test_on_a_full_disk_a_bad_file_stays_until_there_is_room(small_disk, door, queue, caplog):
    spool = Spool(folder=small_disk / "spool", door=door, queue=queue)
    spool.drop("x.json", b"bad")
    fill_up(small_disk / "filler")
    spool.look(4)
    assert (spool.left, len(caplog.records)) == (["x.json"], 1)
    assert "No space left on device" in spool.source.problem
    (small_disk / "filler").unlink()
    spool.look(2)
    assert (spool.left, spool.set_aside) == ([], ["x.json", "x.json.reason"])
    assert (spool.source.problem, queue.books.refused) == (None, {"bad_file": 1})


# -- what cannot be read --------------------------------------------------------------------


def test_an_unreadable_file_is_told_once_with_owner_and_mode_and_taken_when_it_can_be(
    public_spool, public, caplog
):
    spool = public_spool
    spool.drop("x.json", tap(1)).chmod(0)
    spool.drop("y.json", tap(2))
    with as_nobody():
        spool.look(3)
    owner = (spool.folder / "x.json").owner()
    problem = spool.source.problem
    assert problem.startswith(f"cannot read {spool.folder}/x.json: found owner {owner}, group ")
    assert "mode 0000, expected one that the service may read; run: chmod g+r" in problem
    assert [record.getMessage() for record in caplog.records] == [f"spool: {problem}"]
    assert ids(public) == ["e2"]
    (spool.folder / "x.json").chmod(0o666)
    with as_nobody():
        spool.look()
    assert (ids(public), spool.left, spool.source.problem) == (["e2", "e1"], [], None)


def make_link(path):
    path.symlink_to("/etc/hostname")


def make_socket(path):
    with contextlib.chdir(path.parent), socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path.name)


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (make_link, "a link"),
        (os.mkfifo, "a pipe"),
        (Path.mkdir, "a folder"),
        (make_socket, "a socket"),
    ],
)
def test_what_is_no_file_is_not_followed_holds_nobody_up_and_is_told_once(
    spool, taken, caplog, make, kind
):
    make(spool.folder / "a.json")
    spool.drop("b.json", tap(1))
    spool.look(3)
    assert (taken(), spool.left) == (["e1"], ["a.json"])
    problem = f"cannot read {spool.folder}/a.json: found {kind}, expected a file; remove it"
    assert spool.source.problem == problem
    assert [record.getMessage() for record in caplog.records] == [f"spool: {problem}"]
    shutil.move(spool.folder / "a.json", spool.folder / "a")
    spool.look()
    assert spool.source.problem is None


def test_the_problem_names_one_file_and_how_many_more_there_are(spool):
    for name in ("a.json", "b.json", "c.json"):
        os.mkfifo(spool.folder / name)
    spool.look()
    assert "a.json" in spool.source.problem
    assert spool.source.problem.endswith(" (and 2 more)")


def test_what_cannot_be_removed_is_taken_once_and_told(public_spool, public):
    """As in a folder with the sticky bit."""
    spool = public_spool
    spool.drop("x.json", tap(1)).chmod(0o666)
    if os.geteuid():
        pytest.skip("needs root, to leave a file that another user may not remove")
    spool.folder.chmod(0o1777)
    with as_nobody():
        spool.look(3)
        assert "cannot remove" in spool.source.problem
        spool.restart()
        spool.look(2)
    assert (ids(public), spool.left) == (["e1"], ["x.json"])
    spool.look()
    assert (ids(public), spool.left) == (["e1"], [])
    spool.drop("x.json", tap(2))
    spool.look()
    assert (ids(public), spool.source.problem) == (["e1", "e2"], None)


def test_a_change_of_mode_is_no_new_file(public_spool, public):
    """Whoever is told that a file cannot be removed changes its mode, and it must not come twice."""
    spool = public_spool
    if os.geteuid():
        pytest.skip("needs root, to leave a file that another user may not remove")
    spool.drop("x.json", tap(1)).chmod(0o666)
    spool.drop("y.ndjson", taps(2, 3)).chmod(0o666)
    spool.folder.chmod(0o1777)
    with as_nobody():
        spool.look()
    for name in ("x.json", "y.ndjson"):
        (spool.folder / name).chmod(0o664)
    spool.look(2)
    assert (ids(public), spool.left) == (["e1", "e2", "e3"], [])


# -- the folder -----------------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0o000, 0o027, 0o077])
def test_the_folder_is_made_for_the_group_whatever_the_umask_is(tmp_path, door, queue, umask):
    before = os.umask(umask)
    try:
        spool = Spool(folder=tmp_path / "spool", door=door, queue=queue)
    finally:
        os.umask(before)
    assert stat.S_IMODE(spool.folder.stat().st_mode) == 0o2770


def test_a_kill_while_the_folder_is_made_leaves_none_with_another_mode(tmp_path, door, queue):
    (tmp_path / ".spool.new").mkdir(mode=0o700)  # what such a kill leaves
    spool = Spool(folder=tmp_path / "spool", door=door, queue=queue)
    assert stat.S_IMODE(spool.folder.stat().st_mode) == 0o2770


def test_root_changes_no_folder_that_somebody_laid_where_the_spool_folder_is_made(tmp_path):
    if os.geteuid():
        pytest.skip("needs root, to have something that others may not change")
    victim = tmp_path / "victim"
    victim.mkdir(mode=0o700)
    (victim / "file").write_bytes(b"")
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, NOBODY, NOBODY)
    fresh = home / ".spool.new"
    for lay in (fresh.symlink_to, lambda victim: victim.rename(fresh)):
        lay(victim)
        with pytest.raises(OSError, match=r"Not a directory|not empty"):
            spool_file.make_folder(home / "spool")
        found = fresh.stat()
        assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (0, 0o700)
        assert not (home / "spool").exists()
        if fresh.is_symlink():
            fresh.unlink()


def test_who_holds_the_lock_holds_up_nobody_for_ever(tmp_path):
    """Whoever may read the folder around can take it."""
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        spool_file.make_folder(tmp_path / "spool", patience=0.1)
    finally:
        os.close(descriptor)
    assert stat.S_IMODE((tmp_path / "spool").stat().st_mode) == 0o2770


def test_who_makes_the_folder_without_the_lock_may_come_second(tmp_path, at_rename):
    def be_faster():
        (tmp_path / "spool").mkdir()
        (tmp_path / "spool" / "x.json").write_bytes(tap(1))

    at_rename(tmp_path / ".spool.new", be_faster)
    spool_file.make_folder(tmp_path / "spool")
    assert [path.name for path in (tmp_path / "spool").iterdir()] == ["x.json"]


@pytest.mark.parametrize("below", ["", "var", "var/lib"])
def test_the_state_directory_is_no_spool_folder_by_whatever_way(tmp_path, spool, below):
    """The configuration refuses it too, but sees no links."""
    state = tmp_path / "state" / below
    state.mkdir(parents=True)
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "state")
    source = SpoolSource(door=None, clock=CLOCK, directory=link, marks=dict, state_directory=state)
    (link / "identity.json").write_bytes(b"{}")
    with pytest.raises(SourceUnavailable, match=r"is in it, expected a folder of its own"):
        source.run(threading.Event(), spool.progress)
    assert (link / "identity.json").exists()


def test_the_spool_folder_in_the_state_directory_is_used(tmp_path, door, queue):
    source = SpoolSource(
        door=door, clock=CLOCK, directory=tmp_path / "spool", marks=dict, state_directory=tmp_path
    )
    source.prepare()
    assert (tmp_path / "spool").is_dir()


def test_a_folder_that_is_there_is_left_as_it_is(tmp_path, door, queue):
    (tmp_path / "spool").mkdir()
    (tmp_path / "spool").chmod(0o755)
    spool = Spool(folder=tmp_path / "spool", door=door, queue=queue)
    assert stat.S_IMODE(spool.folder.stat().st_mode) == 0o755


def test_a_folder_that_may_not_be_written_is_unavailable_and_says_whose_it_is(public_spool):
    public_spool.folder.chmod(0o555)
    with as_nobody(), pytest.raises(SourceUnavailable) as unavailable:
        public_spool.make_source().prepare()
    said = str(unavailable.value)
    assert said.startswith(f"cannot use the spool folder {public_spool.folder}: found owner ")
    assert said.endswith("mode 0555, expected one that the service may read and write")


def test_a_folder_that_cannot_be_made_is_unavailable(tmp_path, door, queue):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SourceUnavailable, match=r"cannot use the spool folder .*: Not a directory"):
        Spool(folder=tmp_path / "file" / "spool", door=door, queue=queue)


def test_a_folder_that_is_a_file_is_unavailable(spool):
    spool.folder.rmdir()
    spool.folder.write_bytes(b"")
    with pytest.raises(SourceUnavailable, match="Not a directory"):
        spool.make_source().run(threading.Event(), spool.progress)


def test_a_folder_that_vanishes_is_unavailable_and_comes_back(spool, taken):
    runner = Runner(spool.make_source(poll=0.01))
    spool.drop("x.json", tap(1))
    until(lambda: taken() == ["e1"], "the first file")
    spool.folder.rename(spool.folder.with_name("moved"))
    until(lambda: runner.worker.problem or spool.folder.exists(), "the folder to be missed")
    assert (
        f"cannot read the spool folder {spool.folder}: No such file" in runner.worker._unavailable
    )
    until(spool.folder.exists, "the folder to be made again")
    spool.drop("x.json", tap(2))
    until(lambda: taken() == ["e1", "e2"], "the second file")
    runner.stop()


def test_an_empty_folder_is_a_sign_of_life_too(spool):
    assert not spool.progress.running
    spool.look()
    assert spool.progress.running


# -- files that change under the reader's hand ----------------------------------------------


def test_a_file_renamed_over_one_that_is_being_committed_is_taken_too(spool, taken):
    late = iter([tap(2)])

    def rename_over():
        for payload in late:
            spool.drop("x.json", payload)

    spool.restart(wrap=lambda door: MeddlesomeDoor(door, rename_over))
    spool.drop("x.json", tap(1))
    spool.look()
    assert (taken(), spool.left) == (["e1"], ["x.json"])
    spool.look()
    assert (taken(), spool.left) == (["e1", "e2"], [])


def test_a_file_that_somebody_removes_first_is_taken_once(spool, taken):
    def remove():
        (spool.folder / "x.json").unlink()

    spool.restart(wrap=lambda door: MeddlesomeDoor(door, remove))
    spool.drop("x.json", tap(1))
    spool.look()
    assert (taken(), spool.left, spool.source.problem) == (["e1"], [], None)


def test_files_that_vanish_during_a_look_are_no_problem(spool, taken):
    def remove_the_rest():
        for path in spool.folder.glob("*.json"):
            path.unlink()

    spool.restart(wrap=lambda door: MeddlesomeDoor(door, remove_the_rest))
    for number in range(2 * BATCH_DOCUMENTS):
        spool.drop(f"{number:04}.json", tap(number))
    spool.look()
    # One more than a commit takes has been read by then.
    assert taken() == [f"e{number}" for number in range(BATCH_DOCUMENTS + 1)]
    assert (spool.left, spool.source.problem) == ([], None)


@pytest.mark.parametrize("number", [2, 2 * BATCH_DOCUMENTS])
def test_lines_appended_while_it_is_read_are_not_lost_nor_half_a_line_judged(
    spool, queue, taken, number
):
    """Not the way to hand in events: some come twice."""
    more = iter([b'{"name":"tap","event_id"', b':"elate"}\n'])

    def append():
        with (spool.folder / "x.ndjson").open("ab") as file:
            file.write(next(more, b""))

    spool.restart(wrap=lambda door: MeddlesomeDoor(door, append))
    spool.drop("x.ndjson", taps(*range(number)))
    spool.look()
    append()
    spool.look(2)
    assert set(taken()) == {*(f"e{n}" for n in range(number)), "elate"}
    assert (spool.left, queue.books.dead) == ([], 0)


@pytest.fixture(scope="session")
def renames():
    """What is called at a rename or removal, by path; Python tells of them beforehand."""
    waiting = {}

    def hook(event, arguments):
        if waiting and event in ("os.rename", "os.remove"):
            waiting.pop(os.fspath(arguments[0]), lambda: None)()

    sys.addaudithook(hook)
    return waiting


@pytest.fixture
def at_rename(renames):
    """Do something right before the path is renamed or removed."""
    yield lambda path, act: renames.update({os.fspath(path): act})
    renames.clear()


@pytest.mark.parametrize("name", ["x.json", "x" * 250 + ".json"])
def test_a_file_renamed_over_one_that_is_just_being_removed_is_taken_too(
    spool, taken, at_rename, name
):
    spool.drop(name, tap(1))
    hidden = spool.folder / ".later"
    hidden.write_bytes(tap(2))
    at_rename(spool.folder / name, lambda: hidden.replace(spool.folder / name))
    spool.look()
    assert taken() == ["e1"]
    [given_back] = spool.left
    assert given_back.endswith(".json")
    assert not given_back.startswith(".")
    spool.drop(name, tap(3))
    spool.look()
    assert (taken(), spool.left) == (["e1", "e2", "e3"], [])


def test_a_good_file_renamed_over_a_bad_one_that_is_just_being_moved_is_taken(
    spool, queue, taken, at_rename
):
    spool.drop("x.json", b"bad")
    spool.look()
    hidden = spool.folder / ".later"
    hidden.write_bytes(tap(2))

    at_rename(spool.folder / "x.json", lambda: hidden.replace(spool.folder / "x.json"))
    spool.look(2)
    assert (taken(), spool.left, spool.set_aside) == (["e2"], [], [])
    assert queue.books.refused == {}


def append(path, *numbers):
    with path.open("ab") as file:
        file.write(taps(*numbers))


def test_a_file_that_grows_while_it_is_taken_is_read_on_and_not_again(spool, taken):
    """Not the way to hand in events, but no reason to send them again and again."""
    numbers = itertools.count(3 * BATCH_DOCUMENTS)
    path = spool.drop("x.ndjson", taps(*range(3 * BATCH_DOCUMENTS)))

    def grow():
        if len(taken()) < 5 * BATCH_DOCUMENTS:
            append(path, *itertools.islice(numbers, 40))

    spool.restart(wrap=lambda door: MeddlesomeDoor(door, grow))
    rounds = 0
    while spool.left:
        spool.look()
        rounds += 1
        assert rounds < 20
    assert rounds > 2, "it did not grow between two looks"
    assert taken() == [f"e{number}" for number in range(next(numbers))]


def test_a_file_that_grew_beside_a_full_queue_is_read_on(tmp_path, small_queue, make_door):
    door = make_door(queue=small_queue)
    spool = Spool(folder=tmp_path / "spool", door=door, queue=small_queue)
    line = b"".join(tap(n, params={"x": "x" * 20_000}) + b"\n" for n in range(300))
    path = spool.drop("x.ndjson", line)
    spool.look(2)
    found = drained(small_queue)
    assert 0 < len(found) < 300
    append(path, 300, 301)
    for _ in range(10):
        spool.look()
        found += drained(small_queue)
    assert found == [f"e{number}" for number in range(302)]
    assert spool.left == []


def with_other_lines_before(path):
    path.write_bytes(taps(*range(10, 10 + BATCH_DOCUMENTS), 2, 3, 4))


def shortened(path):
    path.write_bytes(taps(2))


def written_once_more(path):
    """A program whose events are all alike, and that writes each over the one before."""
    path.write_bytes(path.read_bytes())
    os.utime(path, ns=(1, path.stat().st_mtime_ns + 1))


@pytest.mark.parametrize("change", [with_other_lines_before, shortened, written_once_more])
@pytest.mark.parametrize("restarted", [False, True])
def test_a_file_whose_beginning_was_written_anew_is_read_from_there(
    spool, taken, change, restarted
):
    path = spool.drop("x.ndjson", taps(1, 2))

    todo = [change]

    def rewrite():
        if todo:
            todo.pop()(path)

    spool.restart(wrap=lambda door: MeddlesomeDoor(door, rewrite))
    spool.look()
    assert (taken(), spool.left) == (["e1", "e2"], ["x.ndjson"])
    content = path.read_text().splitlines()
    if restarted:
        spool.restart()
    spool.look()
    assert taken() == ["e1", "e2", *map(number_in, content)]
    assert spool.left == []


def test_the_marks_of_another_folder_are_kept_for_its_return(tmp_path, small_queue, make_door):
    """The configuration names another folder for a while."""
    door = make_door(queue=small_queue)
    spool = Spool(folder=tmp_path / "a", door=door, queue=small_queue)
    numbers = range(300)
    spool.drop("x.ndjson", b"".join(tap(n, params={"x": "x" * 20_000}) + b"\n" for n in numbers))
    spool.look(2)
    found = drained(small_queue)
    other = Spool(folder=tmp_path / "b", door=door, queue=small_queue)
    for name in ("x.ndjson", "y.json"):
        other.drop(name, tap(1000))
        other.look(3)
    assert drained(small_queue) == ["e1000", "e1000"]
    for _ in range(10):
        spool.restart()
        spool.look()
        found += drained(small_queue)
    assert (found, spool.left) == ([f"e{number}" for number in numbers], [])


def test_a_folder_reached_through_a_link_keeps_its_marks(spool, taken):
    spool.restart(wrap=lambda door: MortalDoor(door, kill_at=1))
    spool.drop("x.json", tap(1))
    with pytest.raises(Killed):
        spool.look()
    link = spool.folder.with_name("link")
    link.symlink_to(spool.folder)
    spool.folder = link
    spool.restart()
    spool.look()
    assert (taken(), spool.left) == (["e1"], [])


# -- kills ----------------------------------------------------------------------------------


@pytest.mark.parametrize("grown", [False, True])
def test_a_kill_between_moving_away_and_removal_repeats_and_loses_nothing(
    spool, taken, at_rename, grown
):
    path = spool.drop("x.ndjson", taps(1))

    def die():
        raise Killed

    def die_at_the_removal():
        identity = identity_of(path.stat())
        at_rename(spool.folder / f".{path.name}.{identity}.taken", die)

    at_rename(path, die_at_the_removal)
    with pytest.raises(Killed):
        spool.look()
    assert not path.exists()
    [hidden] = spool.folder.iterdir()
    assert hidden.name.endswith(".taken")
    if grown:
        append(hidden, 2)
    spool.restart()
    spool.look()
    assert (set(taken()), spool.left) == ({"e1", "e2"} if grown else {"e1"}, [])
    assert len(taken()) == (3 if grown else 1)


def test_what_only_looks_like_a_file_that_was_moved_away_is_no_reason_to_stop(spool, caplog):
    (spool.folder / ".x.json.1-2-3.taken").mkdir()
    (spool.folder / ".x.json.1-2-x.taken").write_bytes(b"")
    spool.restart()
    spool.look()
    assert ".x.json.1-2-x.taken" in spool.left
    assert "found a folder, expected a file; remove it" in spool.source.problem


@pytest.mark.parametrize("name", ["x.json", "x.ndjson"])
def test_a_kill_between_commit_and_removal_repeats_nothing(spool, taken, name):
    spool.restart(wrap=lambda door: MortalDoor(door, kill_at=1))
    spool.drop(name, taps(1))
    with pytest.raises(Killed):
        spool.look()
    assert (taken(), spool.left) == (["e1"], [name])
    spool.restart()
    spool.look()
    assert (taken(), spool.left) == (["e1"], [])


def test_a_kill_before_the_commit_loses_nothing(spool, taken):
    spool.restart(wrap=lambda door: MortalDoor(door, kill_at=1, before=True))
    spool.drop("x.json", tap(1))
    with pytest.raises(Killed):
        spool.look()
    assert (taken(), spool.left) == ([], ["x.json"])
    spool.restart()
    spool.look()
    assert (taken(), spool.left) == (["e1"], [])


def renamed_over(spool, path):
    return spool.drop(path.name, tap(2))


def with_the_same_content_and_time(spool, path):
    before = path.stat()
    hidden = spool.folder / ".copy"
    shutil.copy2(path, hidden)
    assert hidden.stat().st_mtime_ns == before.st_mtime_ns
    return hidden.rename(path)


def with_the_same_inode_content_and_time(spool, path):
    """As a file system may give a new file the number of one that was just removed."""
    before = path.stat()
    while path.stat().st_ctime_ns == before.st_ctime_ns:
        path.write_bytes(path.read_bytes())
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    return path


@pytest.mark.parametrize(
    "replace", [renamed_over, with_the_same_content_and_time, with_the_same_inode_content_and_time]
)
def test_after_a_kill_a_new_file_of_the_same_name_is_taken(spool, taken, replace):
    spool.restart(wrap=lambda door: MortalDoor(door, kill_at=1))
    path = spool.drop("x.json", tap(1))
    with pytest.raises(Killed):
        spool.look()
    content = replace(spool, path).read_bytes()
    spool.restart()
    spool.look()
    assert taken() == ["e1", number_in(content)]
    assert spool.left == []


def test_a_new_file_of_the_same_name_is_taken_while_it_runs(spool, taken):
    for number in range(5):
        path = spool.drop("x.json", tap(number))
        os.utime(path, ns=(NOW * 1000, NOW * 1000))
        spool.look()
    assert taken() == [f"e{number}" for number in range(5)]


@pytest.mark.parametrize("kill", [(at, ahead) for at in (1, 2, 3, 4) for ahead in (True, False)])
@pytest.mark.parametrize("name", ["x.json", "x.ndjson"])
def test_a_kill_around_any_commit_of_a_long_file_goes_on_at_the_right_event(
    spool, taken, queue, name, kill
):
    kill_at, before = kill
    numbers = range(3 * BATCH_DOCUMENTS + 7)
    whole = [json.loads(tap(number)) for number in numbers]
    spool.drop(name, taps(*numbers) if name == "x.ndjson" else json.dumps(whole).encode())
    spool.restart(wrap=lambda door: MortalDoor(door, kill_at=kill_at, before=before))
    with pytest.raises(Killed):
        spool.look()
    spool.restart()
    spool.look()
    assert taken() == [f"e{number}" for number in numbers]
    assert (spool.left, queue.books.balanced) == ([], True)


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(st.integers(1, 2 * BATCH_DOCUMENTS), min_size=1, max_size=6),
    st.lists(st.tuples(st.integers(1, 3), st.booleans()), max_size=6),
)
def test_whatever_is_left_and_whenever_it_is_killed_everything_is_taken_once_in_order(
    spool, queue, sizes, kills
):
    numbers = itertools.count()
    for file, size in enumerate(sizes):
        spool.drop(f"{file}.ndjson", taps(*itertools.islice(numbers, size)))
    for commit, ahead in kills:
        spool.restart(
            wrap=lambda door, at=commit, ahead=ahead: MortalDoor(door, kill_at=at, before=ahead)
        )
        with contextlib.suppress(Killed):
            spool.look()
    spool.restart()
    spool.look()
    assert drained(queue) == [f"e{number}" for number in range(sum(sizes))]
    assert (spool.left, queue.books.balanced) == ([], True)


def test_marks_are_forgotten(spool, queue, tmp_path):
    most = 0
    for number in range(1000):
        spool.drop(f"{number:04}.json", tap(number))
        if number % 30 == 0:
            spool.look()
            most = max(most, len(queue.source_state("spool")))
    spool.look()
    most = max(most, len(queue.source_state("spool")))
    assert most <= 2 * BATCH_DOCUMENTS
    spool.drop("last.json", tap("last"))
    spool.look()
    assert list(spool_marks(tmp_path)) == [f"{spool.folder}/last.json"]


def test_marks_of_files_that_are_gone_at_the_start_are_forgotten(spool, queue, tmp_path):
    spool.restart(wrap=lambda door: MortalDoor(door, kill_at=1))
    for number in range(20):
        spool.drop(f"{number:04}.json", tap(number))
    with pytest.raises(Killed):
        spool.look()
    assert len(spool_marks(tmp_path)) == 20
    for path in spool.folder.iterdir():
        path.unlink()
    spool.restart()
    spool.drop("next.json", tap("next"))
    spool.look()
    assert list(spool_marks(tmp_path)) == [f"{spool.folder}/next.json"]


@pytest.mark.parametrize("text", ["", "nonsense", "1-2-3 4 x", "1 2 3 4 -5 6", "1 2 3 4 5 6 7"])
def test_a_damaged_mark_costs_a_repeat_at_most_and_is_forgotten(spool, queue, taken, text):
    spool.drop("x.json", tap(1))
    keys = ["gone.json", f"{spool.folder}/x.json", f"{spool.folder}/gone.json"]
    marks = [SourceState("spool", key, text) for key in keys]
    queue.put_many([], state=marks)
    spool.restart()
    spool.look()
    assert taken() == ["e1"]
    assert list(queue.source_state("spool")) == [f"{spool.folder}/x.json"]


def test_a_stop_in_the_middle_is_heard_after_the_next_commit(spool, taken):
    spool.restart(wrap=lambda door: MeddlesomeDoor(door, spool.stop))
    spool.drop("x.ndjson", taps(*range(3 * BATCH_DOCUMENTS)))
    spool.look()
    assert taken() == [f"e{number}" for number in range(BATCH_DOCUMENTS)]
    assert spool.left == ["x.ndjson"]


# -- a full queue, and step by step ---------------------------------------------------------


@pytest.fixture
def small_queue(tmp_path):
    (tmp_path / "small").mkdir()
    queue = EventQueue.open(tmp_path / "small", max_bytes=4 * 1024 * 1024)
    yield queue
    queue.close()


@pytest.mark.parametrize("step_by_step", [False, True])
def test_a_queue_that_is_full_in_the_middle_of_a_file_loses_and_repeats_nothing(
    tmp_path, small_queue, make_door, step_by_step
):
    stepwise = Stepwise(directory=tmp_path, deaths=2 if step_by_step else 0)
    door = make_door(queue=small_queue, stepwise=stepwise)
    spool = Spool(folder=tmp_path / "spool", door=door, queue=small_queue)
    numbers = range(300)
    spool.drop("a.ndjson", b"".join(tap(n, params={"x": "x" * 20_000}) + b"\n" for n in numbers))
    spool.drop("b.json", tap(300))
    found, rounds = [], 0
    while spool.left:
        spool.look(3)
        spool.restart() if rounds % 2 else None
        found += drained(small_queue)
        rounds += 1
        assert rounds < 20
    assert rounds > 2, "it was never full"
    assert found == [f"e{number}" for number in range(301)]
    assert (small_queue.books.refused, small_queue.books.balanced) == ({}, True)


def test_step_by_step_a_kill_in_the_middle_of_a_batch_repeats_nothing(
    tmp_path, queue, make_door, taken
):
    class MortalStepwise(Stepwise):
        steps = 0

        @contextlib.contextmanager
        def step(self):
            self.steps += 1
            with super().step() as touch:
                yield touch
            if self.steps == 13:
                raise Killed

    door = make_door(stepwise=MortalStepwise(directory=tmp_path, deaths=2))
    spool = Spool(folder=tmp_path / "spool", door=door, queue=queue)
    spool.drop("a.ndjson", taps(*range(10)))
    spool.drop("b.ndjson", taps(*range(10, 20)))
    with pytest.raises(Killed):
        spool.look()
    assert len(taken()) == 13
    spool.restart(door=make_door())
    spool.look()
    assert taken() == [f"e{number}" for number in range(20)]
    assert spool.left == []


def test_a_commit_is_bounded_in_documents_and_bytes(spool):
    class CountingDoor:
        commits = []  # noqa: RUF012 - one instance

        def admit_many(self, messages):
            self.commits.append((len(messages), sum(len(m.payload) for m in messages)))
            return [Accepted(1) for _ in messages]

    spool.restart(wrap=lambda _door: CountingDoor())
    spool.drop("a.ndjson", taps(*range(1000)))
    large = tap(1).ljust(100_000, b" ")
    spool.drop("b.ndjson", (tap(1, params={"x": "x" * 100_000}) + b"\n") * 50 + large)
    spool.look(2)
    documents, sizes = zip(*CountingDoor.commits, strict=True)
    assert sum(documents) == 1051
    assert max(documents) == BATCH_DOCUMENTS
    assert max(sizes) < BATCH_BYTES + 101_000


def test_a_long_file_needs_little_memory(spool):
    class Sink:
        number = 0

        def admit_many(self, messages):
            self.number += len(messages)
            return [Accepted(1) for _ in messages]

    sink = Sink()
    line = tap(1, params={"x": "x" * 400}) + b"\n"
    spool.drop("x.ndjson", line * 50_000)
    spool.restart(wrap=lambda _door: sink)
    tracemalloc.start()
    try:
        spool.look()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (sink.number, spool.left) == (50_000, [])
    assert len(line) * 50_000 > 20_000_000
    assert peak < 3_000_000


# -- what the events say of themselves ------------------------------------------------------


@pytest.mark.parametrize(
    ("written_us", "stamp"),
    [
        (NOW - HOUR, Stamp(NOW - HOUR, 9 * HOUR, "b", trusted=True)),
        (NOW - 11 * HOUR, Stamp(NOW - 11 * HOUR, 0, "", trusted=False)),
        (NOW + HOUR, Stamp(NOW, 10 * HOUR, "b", trusted=True)),
        (-HOUR, Stamp(0, 0, "", trusted=False)),
    ],
    ids=["in this boot", "before this boot", "in the future", "before 1970"],
)
def test_an_event_without_a_time_carries_the_time_its_file_was_written(
    spool, tmp_path, written_us, stamp
):
    spool.drop("x.ndjson", taps(1) + b"7\n", written_us=written_us)
    spool.look()
    assert [item.stamp for item in stored(tmp_path)] == [stamp, stamp]


def test_an_event_keeps_its_own_stamp(spool, tmp_path):
    own = Stamp(NOW - 5 * HOUR, 77, "another boot", trusted=True)
    spool.drop("x.json", tap(1, stamp=spool_file.stamp_fields(own)))
    spool.look()
    assert [event.stamp for event in events(tmp_path)] == [own]


GOOD_STAMP = {"wall_us": 1, "boot_us": 1, "boot_id": "b", "trusted": True}


@pytest.mark.parametrize(
    "wrong",
    [
        {"wall_us": -1},
        {"wall_us": "1"},
        {"wall_us": True},
        {"wall_us": 1.5},
        {"wall_us": TIME_MAX},
        {"boot_us": None},
        {"boot_us": 10**30},
        {"boot_id": 7},
        {"boot_id": "x" * 300},
        {"trusted": 1},
        {"more": 1},
    ],
)
def test_a_nonsensical_stamp_is_a_dead_letter(spool, queue, taken, wrong):
    spool.drop("x.ndjson", tap(1, stamp=GOOD_STAMP | wrong) + b"\n" + taps(2))
    spool.look()
    assert (taken(), queue.books.dead, spool.left) == (["e2"], 1, [])


@pytest.mark.parametrize("stamp", [{}, 7, "now", [1], {"wall_us": 1}])
def test_what_is_no_stamp_at_all_is_a_dead_letter(spool, queue, taken, stamp):
    spool.drop("x.json", tap(1, stamp=stamp))
    spool.look()
    assert (taken(), queue.books.dead, spool.left) == ([], 1, [])


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
scalars = st.one_of(
    texts,
    st.booleans(),
    st.integers(-(2**53), 2**53),
    st.floats(allow_nan=False, allow_infinity=False),
    st.none(),
)
values = st.recursive(
    scalars, lambda inner: st.one_of(st.lists(inner), st.dictionaries(texts, inner)), max_leaves=5
)
objects = st.dictionaries(texts, values, max_size=3)
times = st.integers(0, TIME_MAX - 1)
stamps = st.builds(Stamp, times, times, texts, trusted=st.booleans())


def senders(stream):
    """Senders that the stream can have; whatever else they say stays."""
    known = {"app_instance_id": names} if stream == "app" else {"client_id": names}
    return st.builds(
        Sender,
        **known,
        user_id=st.none() | names,
        user_properties=objects,
        consent=objects,
        device=objects,
        location=objects,
        rest=st.dictionaries(st.sampled_from(REST), values, max_size=3),
    )


def queued_events(stream):
    return st.builds(
        Event,
        name=names,
        stream=st.just(stream),
        sender=senders(stream),
        stamp=stamps,
        event_id=names,
        params=objects,
        priority=st.sampled_from(Priority),
        time_us=st.none() | st.integers(1, TIME_MAX - 1),
        session=st.sampled_from([None, "start", "end"]),
        actor=st.sampled_from([None, "human", "machine"]),
    )


raw_messages = st.builds(RawMessage, names, names, st.binary(max_size=300), stamps)
queued = st.one_of(st.sampled_from(["main", "second", "app"]).flatmap(queued_events), raw_messages)


@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(queued, min_size=1, max_size=5))
def test_what_was_exported_comes_back_equal(spool, tmp_path, items):
    before = len(stored(tmp_path))
    spool.drop("x.ndjson", b"".join(spool_file.line(item) + b"\n" for item in items))
    spool.look()
    assert stored(tmp_path)[before:] == items


def test_an_event_from_before_there_was_a_stream_goes_to_the_default_one(
    spool, make_event, tmp_path
):
    spool.drop("x.json", spool_file.line(make_event(stream=UNASSIGNED)))
    spool.look()
    assert [event.stream for event in events(tmp_path)] == ["main"]


def test_an_event_of_a_stream_that_is_not_configured_is_a_dead_letter(spool, queue, taken):
    spool.drop("x.json", tap(1, stream="unknown"))
    spool.look()
    assert (taken(), queue.books.dead, spool.left) == ([], 1, [])


def test_a_file_left_for_good_is_taken(spool, taken):
    spool_file.leave(spool.folder, "x.json", tap(1))
    assert stat.S_IMODE((spool.folder / "x.json").stat().st_mode) == spool_file.MODE
    spool.look()
    assert (taken(), spool.left) == (["e1"], [])


def test_the_oldest_bad_files_go_when_there_are_too_many(tmp_path):
    folder = SpoolFolder(tmp_path / "spool", bad_max=3000)
    folder.prepare()
    for number in range(5):
        path = tmp_path / "spool" / f"{number}.json"
        path.write_bytes(b"x" * 1000)
        assert folder.set_aside(path.name, identity_of(path.lstat()), "no JSON")
    left = sorted(path.name for path in (tmp_path / "spool" / "bad").iterdir())
    assert left == ["3.json", "3.json.reason", "4.json", "4.json.reason"]
    assert folder.size() == sum(
        path.stat().st_size for path in (tmp_path / "spool" / "bad").iterdir()
    )


def test_a_bad_file_that_is_too_large_alone_is_kept(tmp_path):
    folder = SpoolFolder(tmp_path / "spool", bad_max=10)
    folder.prepare()
    path = tmp_path / "spool" / "a.json"
    path.write_bytes(b"x" * 1000)
    assert folder.set_aside(path.name, identity_of(path.lstat()), "no JSON")
    assert (tmp_path / "spool" / "bad" / "a.json").exists()
