"""The tables of the queue's file. Additive within a major version; VERSION is `user_version`.

An update never has to rewrite a card: see migration.py for what it does to an older file.
"""

VERSION = 2
TABLE = "ack_queue_default"  # upstream's name for the table of rows
PAGE_SIZE = 1024  # one event a second costs 9.6 kB of writes an event; 28 kB with 4096

# persist-queue's table. Its first four columns keep upstream's order, because upstream reads
# rows by position; ours have defaults, so that upstream can insert.
QUEUE_TABLE = (
    "CREATE TABLE IF NOT EXISTS {table_name} ("
    "{key_column} INTEGER PRIMARY KEY AUTOINCREMENT, "  # ids must never be used again: leases
    "data BLOB, timestamp FLOAT, status INTEGER, "
    "stream TEXT NOT NULL DEFAULT '', "
    "sender TEXT NOT NULL DEFAULT '', "
    "priority INTEGER NOT NULL DEFAULT 1, "
    "bytes INTEGER NOT NULL DEFAULT 0, "
    "sending INTEGER NOT NULL DEFAULT 0, "  # on_uncertain = "lose": committed before the POST
    "reason TEXT, "  # of a dead letter
    "early REAL)"  # seconds since 1970, of a row that is older than its place says; see order.py
)

# What the queue writes of a row, to give one that is there already the columns of a new one.
FILLED = "data = ?, timestamp = ?, status = ?, stream = ?, sender = ?, priority = ?, bytes = ?, reason = ?"

# In a table without rowid the key's columns come first: SQLite 3.40's quick_check takes any other
# order for damage. `seen` is in the order of arrival, so that its oldest rows go without a search;
# who looks for a key does so in memory. Rows of `ledger_days` with the counter "client" have a
# client's digest in place of an event's name: there they cost no page of their own.

# Only what is out of the ordinary is indexed: a full index costs half again as much wear.
INDEXES = (
    (
        "CREATE INDEX IF NOT EXISTS queue_priority ON {table_name} (priority, {key_column}) "
        "WHERE priority <> 1 AND status < 2"
    ),
    "CREATE INDEX IF NOT EXISTS queue_dead ON {table_name} ({key_column}) WHERE status = 9",
    # What a plain SQLiteAckQueue left. Usually they are empty: a start need not look at every row.
    "CREATE INDEX IF NOT EXISTS queue_foreign ON {table_name} ({key_column}) WHERE stream = ''",
    "CREATE INDEX IF NOT EXISTS queue_unacked ON {table_name} ({key_column}) WHERE status = 2",
    (
        "CREATE INDEX IF NOT EXISTS queue_early ON {table_name} (early) "
        "WHERE early IS NOT NULL AND status < 2"
    ),
)

TABLES = """
CREATE TABLE IF NOT EXISTS ledger (
    counter TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS ledger_days (
    day TEXT NOT NULL, stream TEXT NOT NULL, event TEXT NOT NULL, counter TEXT NOT NULL,
    value INTEGER NOT NULL, PRIMARY KEY (day, stream, event, counter)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS source_state (
    source TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL,
    PRIMARY KEY (source, key)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS seen (
    kind TEXT NOT NULL, number INTEGER NOT NULL, key TEXT NOT NULL, digest TEXT NOT NULL,
    PRIMARY KEY (kind, number)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS sessions (
    client TEXT PRIMARY KEY, state TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS boots (
    boot_id TEXT PRIMARY KEY, number INTEGER NOT NULL, state TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS meta (
    key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""
