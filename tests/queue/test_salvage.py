"""Every row that SQLite can still read is read, whatever the pages say; nothing goes round in circles."""

import random
import sqlite3
import struct
import time
from contextlib import closing

import pytest

from agent.event import Event, RawMessage, Sender
from agent.queue import serializer
from agent.queue.days import Days
from agent.queue.event_queue import FILE_NAME, EventQueue
from agent.queue.ledger import books_of
from agent.queue.salvage import Salvage, Saved
from agent.queue.schema import PAGE_SIZE, TABLE
from agent.queue.wreck import Wreck, trusted
from tests.conftest import STAMP

CAP = 64 * 1024 * 1024
ROWS = 2000
INNER, LEAF = 5, 13  # what the first byte of a page says


def event(number, size=60):
    return Event(
        name="tap",
        stream="main",
        sender=Sender(client_id="1.1"),
        stamp=STAMP,
        event_id=f"{number:016x}",
        params={"n": number, "x": "y" * size},
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    directory = tmp_path_factory.mktemp("built")
    queue = EventQueue.open(directory, max_bytes=CAP)
    for first in range(0, ROWS, 500):
        queue.put_many([event(n) for n in range(first, first + 500)])
    queue.close()
    return (directory / FILE_NAME).read_bytes()


@pytest.fixture
def path(built, tmp_path):
    found = tmp_path / "damaged.db"
    found.write_bytes(built)
    return found


def ids(path):
    with closing(Wreck(path)) as wreck:
        return [row.id for row in wreck.rows(0)]


def pages(content, kind):
    """Numbers of the pages of a kind that belong to the table of events, in their order."""
    tree = [root_of(content)]
    found = []
    while tree:
        page = tree.pop(0)
        start = (page - 1) * PAGE_SIZE
        if content[start] == kind:
            found.append(page)
        if content[start] == INNER:
            tree += [struct.unpack_from(">I", content, at)[0] for at in children(content, start)]
    return found


def children(content, start):
    """Where the numbers of a branch's pages stand."""
    cells = struct.unpack_from(">H", content, start + 3)[0]
    at = [struct.unpack_from(">H", content, start + 12 + 2 * n)[0] + start for n in range(cells)]
    return [*at, start + 8]


def root_of(content):
    connection = sqlite3.connect(":memory:")
    connection.deserialize(content[:18] + b"\1\1" + content[20:])  # not in WAL mode
    sql = "SELECT rootpage FROM sqlite_schema WHERE name = ?"
    root = connection.execute(sql, (TABLE,)).fetchone()[0]
    connection.close()
    return root


def spoil(path, offset, data):
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def test_a_sound_file_gives_all_its_rows(path):
    assert ids(path) == list(range(1, ROWS + 1))


@pytest.mark.parametrize("seed", range(8))
def test_only_the_rows_of_zeroed_leaves_are_missing(path, built, seed):
    leaves = pages(built, LEAF)
    gone = set(random.Random(seed).sample(leaves, 40))
    for page in gone:
        spoil(path, (page - 1) * PAGE_SIZE, bytes(PAGE_SIZE))
    expected = [n for n in range(1, ROWS + 1) if leaf_of(built, leaves, n) not in gone]
    assert ids(path) == expected


def leaf_of(content, leaves, number):
    data = serializer.dumps(event(number - 1))
    at = next(at for at in occurrences(content, data) if at // PAGE_SIZE + 1 in leaves)
    return at // PAGE_SIZE + 1


def occurrences(content, data):
    at = content.find(data)
    while at >= 0:
        yield at
        at = content.find(data, at + 1)


def test_a_branch_that_points_to_another_leaf_costs_only_the_leaf_that_it_forgot(path, built):
    branch = (pages(built, INNER)[1] - 1) * PAGE_SIZE
    at, other = children(built, branch)[5], children(built, branch)[40]
    spoil(path, at, built[other : other + 4])
    found = ids(path)
    assert len(found) == len(set(found))
    assert ROWS - len(found) <= 4


@pytest.mark.parametrize("child", [0, 5, -1])
def test_a_circle_comes_to_an_end(path, built, child):
    branch = pages(built, INNER)[1]
    at = children(built, (branch - 1) * PAGE_SIZE)[child]
    started = time.monotonic()
    for target in (branch, root_of(built)):
        spoil(path, at, struct.pack(">I", target))
        found = [each for each in ids(path) if each is not None]
        assert len(found) == len(set(found))
        assert ROWS - len(found) < 400, "the branch's other leaves are found"
    assert time.monotonic() - started < 20


def test_an_id_that_is_too_high_hides_none_of_the_rows_behind_it(path, built):
    leaves = pages(built, LEAF)
    # The third leaf's last id as a varint of two bytes: 2,000 becomes 16,000.
    start = (leaves[len(leaves) // 2] - 1) * PAGE_SIZE
    cell = start + struct.unpack_from(">H", built, start + 8)[0]
    length = 2 if built[cell] & 0x80 else 1
    spoil(path, cell + length, b"\xff\x7f")
    found = ids(path)
    assert len(found) == ROWS
    assert 16383 in found


def test_a_large_row_whose_overflow_is_gone_costs_itself_alone(tmp_path):
    queue = EventQueue.open(tmp_path, max_bytes=CAP)
    queue.put_many([event(n, size=5000 if n == 20 else 60) for n in range(40)])
    queue.close()
    path = tmp_path / FILE_NAME
    content = path.read_bytes()
    # A chain's page in the middle of the text: it begins with the number of the next one.
    page = content.index(b"y" * 1000) // PAGE_SIZE + 1
    spoil(path, page * PAGE_SIZE, bytes(4))
    assert ids(path) == [n for n in range(1, 41) if n != 21]


def test_garbage_gives_nothing(tmp_path):
    path = tmp_path / "damaged.db"
    path.write_bytes(random.Random(1).randbytes(50_000))
    assert ids(path) == []
    with closing(Wreck(path)) as wreck:
        assert (wreck.counters, wreck.sequence) == (None, None)


@pytest.mark.parametrize(
    ("rows", "complete"),
    [
        ([("received", 3), ("queued", 3)], False),
        ([("received", 3), ("queued", 2)], True),
        ([("received", "3"), ("queued", 3)], True),
        ([("received", -3), ("queued", -3)], True),
    ],
    ids=["cut off", "does not balance", "a text", "less than nothing"],
)
def test_a_ledger_that_is_not_whole_is_not_believed(rows, complete):
    assert trusted((rows, complete)) is None


def test_a_ledger_that_balances_is_believed():
    rows = [("received", 9), ("queued", 3), ("sent", 4), ("dropped.evicted", 2), ("refused.x", 7)]
    assert trusted((rows, True)) == dict(rows)


# -- what becomes of the rows ---------------------------------------------------------------


@pytest.fixture
def take_over(tmp_path):
    """Salvage a file into a new queue, or one that has something; the queue's connection."""
    connections = []

    def into(path, *, same=True, there=(), stop_after=None):
        if not connections:
            queue = EventQueue.open(tmp_path / "new", max_bytes=CAP)
            queue.put_many(there)
            queue.close()
            connections.append(sqlite3.connect(tmp_path / "new" / FILE_NAME))
        with closing(Wreck(path)) as wreck:
            salvage = Salvage(
                wreck=wreck,
                target=connections[0],
                name=path.name,
                same=same,
                days=Days(names=100, clients=100),
                now_us=STAMP.wall_us,
            )
            return connections[0], salvage.run(lambda _saved: None)

    yield into
    for connection in connections:
        connection.close()


def books(connection):
    return books_of(dict(connection.execute("SELECT counter, value FROM ledger")))


def test_a_damaged_row_becomes_a_dead_letter_and_nothing_of_it_is_lost(path, built, take_over):
    spoil(path, built.index(serializer.dumps(event(700))) + 50, b"#")
    connection, saved = take_over(path)
    assert saved == Saved(after=ROWS, events=ROWS, damaged=1, lost=0, done=True)
    found = connection.execute(f"SELECT _id, reason, data FROM {TABLE} WHERE status = 9").fetchall()
    assert [(row_id, reason) for row_id, reason, _ in found] == [(701, "damaged")]
    assert b"#" in found[0][2]
    assert (books(connection).queued, books(connection).dead) == (ROWS - 1, 1)
    assert books(connection).balanced


def test_taking_over_twice_is_taking_over_once(path, take_over):
    connection, _ = take_over(path)
    before = books(connection)
    take_over(path)
    assert books(connection) == before
    assert connection.execute(f"SELECT COUNT(*) FROM {TABLE}").fetchone() == (ROWS,)


def test_rows_of_a_file_that_was_set_aside_come_behind_those_that_are_there(path, take_over):
    connection, saved = take_over(path, same=False, there=[event(9000), event(9001)])
    assert (saved.events, saved.lost) == (ROWS, 0)
    sql = f"SELECT data FROM {TABLE} ORDER BY _id"
    numbers = [serializer.loads(data).params["n"] for (data,) in connection.execute(sql)]
    assert numbers == [9000, 9001, *range(ROWS)]
    assert books(connection).received == ROWS + 2
    assert books(connection).balanced


def test_columns_that_are_damaged_are_made_anew_from_the_content(tmp_path, take_over):
    queue = EventQueue.open(tmp_path / "old", max_bytes=CAP)
    queue.put_many([event(1), RawMessage("mqtt", "malformed", b"?", STAMP)])
    queue.close()
    path = tmp_path / "old" / FILE_NAME
    connection = sqlite3.connect(path)
    connection.execute(
        f"UPDATE {TABLE} SET stream = 'x', sender = x'ff', priority = 'z', bytes = -4, status = 7"
    )
    connection.commit()
    connection.close()
    target, _ = take_over(path)
    sql = f"SELECT stream, priority, status, bytes = LENGTH(data), reason FROM {TABLE} ORDER BY _id"
    assert target.execute(sql).fetchall() == [
        ("main", 1, 0, 1, None),
        ("?", 1, 9, 1, "malformed"),
    ]


def test_entries_of_a_kind_that_cannot_be_are_left_out(tmp_path, take_over):
    EventQueue.open(tmp_path / "old", max_bytes=CAP).close()
    path = tmp_path / "old" / FILE_NAME
    connection = sqlite3.connect(path)
    connection.executescript(
        "INSERT INTO seen VALUES ('event_id', 'x', 'a', ''), ('??', 1, 'b', ''), "
        "('event_id', 900000, 'c', '');"
        "INSERT INTO boots VALUES ('b', 'x', ''), ('c', 2, '');"
        "INSERT INTO sessions VALUES ('c', x'00'), ('d', 's');"
        "INSERT INTO source_state VALUES ('spool', 'k', x'00'), ('spool', 'l', 'v');"
        "INSERT INTO ledger_days VALUES ('2027-01-15', 'main', 'tap', 'received', 'x');"
    )
    connection.commit()
    connection.close()
    target, _ = take_over(path)
    assert target.execute("SELECT * FROM seen").fetchall() == [("event_id", 1, "c", "")]
    assert target.execute("SELECT * FROM boots").fetchall() == [("c", 2, "")]
    assert target.execute("SELECT * FROM sessions").fetchall() == [("d", "s")]
    assert target.execute("SELECT * FROM source_state").fetchall() == [("spool", "l", "v")]
    assert target.execute("SELECT * FROM ledger_days").fetchall() == []


def test_boots_of_an_older_file_come_before_those_that_are_known(tmp_path, take_over):
    for name, boot in (("old", "before"), ("new", "now")):
        EventQueue.open(tmp_path / name, max_bytes=CAP).close()
        connection = sqlite3.connect(tmp_path / name / FILE_NAME)
        connection.execute("INSERT INTO boots VALUES (?, 1, '')", (boot,))
        connection.commit()
        connection.close()
    target, _ = take_over(tmp_path / "old" / FILE_NAME, same=False)
    boots = target.execute("SELECT boot_id FROM boots ORDER BY number").fetchall()
    assert boots == [("before",), ("now",)]
