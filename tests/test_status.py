"""One word for how it is, the worst first; and every figure that programs rely on."""

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from agent.anchor import Moment
from agent.clock import Clock
from agent.delivery.outlet import OutletReport
from agent.event import Stamp
from agent.queue.days import Near
from agent.queue.ledger import Books
from agent.queue.order import Dated
from agent.status import DRAINING, EXPIRES_AFTER_US, Observation, oldest_us, status_of

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
NOON_US = int(NOON.timestamp() * 1e6)
STATES = {
    "ok", "draining", "offline", "login_page", "clock_blocks_tls", "unconfigured",
    "misconfigured", "degraded", "disk_full", "read_only", "storage_slow", "volatile", "paused",
}  # fmt: skip


def outlet(state="ok", *, name="main", reason=""):
    return OutletReport(name, state, reason, 0.0, None)


WELL = Observation(
    books=Books(), used_bytes=8192, max_bytes=64 * 1024 * 1024, oldest_us=None, outlets=(outlet(),)
)
NEAR = Near(stream="main", what="event_names", found=450, limit=500)


@pytest.fixture
def clock():
    return Clock(
        wall=lambda: NOON_US, boot=lambda: 100_000_000, boot_id="boot", synchronised=lambda: True
    )


def backlog(number):
    return Books(received=number, queued=number)


# From the worst to the best: each one hides all that follow.
PRECEDENCE = [
    ("stopped", dict(running=False)),
    ("disk_full", dict(storage="disk_full")),
    ("paused", dict(paused=True)),
    ("misconfigured", dict(config_problems=("agent.toml: x",))),
    ("misconfigured", dict(secret_problems=("cannot use /etc/secret: found no such file",))),
    ("unconfigured", dict(outlets=(outlet("unconfigured"),))),
    ("misconfigured", dict(outlets=(outlet("misconfigured"),))),
    ("clock_blocks_tls", dict(outlets=(outlet("clock_blocks_tls"),))),
    ("login_page", dict(outlets=(outlet("login_page"),))),
    ("offline", dict(outlets=(outlet("offline"),))),
    ("degraded", dict(problems={"mqtt": "no broker"})),
    ("volatile", dict(volatile=True)),
    ("draining", dict(books=backlog(DRAINING + 1))),
    ("ok", {}),
]


def together(one, other):
    """Both at once: with an outlet of each where both are about outlets."""
    both = {**other, **one}
    if "outlets" in one and "outlets" in other:
        both["outlets"] = (*other["outlets"], *one["outlets"])
    return both


@pytest.mark.parametrize(("state", "seen"), PRECEDENCE, ids=[row[0] for row in PRECEDENCE])
def test_each_state_has_its_word(clock, state, seen):
    assert status_of(replace(WELL, **seen), clock).state == state


@pytest.mark.parametrize("worse", range(len(PRECEDENCE)))
def test_the_worst_is_said(clock, worse):
    state, seen = PRECEDENCE[worse]
    for _, better in PRECEDENCE[worse:]:
        assert status_of(replace(WELL, **together(seen, better)), clock).state == state


@pytest.mark.parametrize("storage", ["disk_full", "read_only", "storage_slow"])
def test_trouble_with_the_disk_is_said_in_its_own_word(clock, storage):
    assert status_of(replace(WELL, storage=storage), clock).state == storage


def test_every_word_is_one_of_the_design(clock):
    """But for a daemon that is not running, which no word of its own can describe."""
    words = {status_of(replace(WELL, **seen), clock).state for _, seen in PRECEDENCE}
    assert words - {"stopped"} <= STATES


def test_without_any_stream_it_is_unconfigured(clock):
    status = status_of(replace(WELL, outlets=()), clock)
    assert status.state == "unconfigured"
    assert "no stream is configured" in status.reason


@pytest.mark.parametrize(("queued", "state"), [(0, "ok"), (100, "ok"), (101, "draining")])
def test_what_a_busy_device_has_waiting_anyway_is_no_backlog(clock, queued, state):
    assert status_of(replace(WELL, books=backlog(queued)), clock).state == state


@pytest.mark.parametrize(
    ("seen", "reason"),
    [
        (dict(outlets=(outlet("offline", name="shop", reason="no route"),)), "shop: no route"),
        (dict(problems={"http": None, "mqtt": "no broker"}), "mqtt: no broker"),
        (dict(config_problems=("a.toml: x", "a.toml: y")), "a.toml: x"),
        (dict(secret_problems=("cannot use /etc/secret",)), "cannot use /etc/secret"),
        (dict(volatile=True), "volatile = true"),
        (dict(paused=True), "ga4-agent resume"),
        (dict(running=False), "not running"),
        (dict(books=backlog(500)), "500 events"),
    ],
)
def test_the_reason_says_where_and_what(clock, seen, reason):
    status = status_of(replace(WELL, **seen), clock)
    assert reason in status.reason
    assert status.document["reason"] == status.reason


def test_a_stream_that_is_well_hides_none_that_is_not(clock):
    outlets = (outlet("ok", name="a"), outlet("offline", name="b"))
    assert status_of(replace(WELL, outlets=outlets), clock).state == "offline"


# The document


def dig(document, path):
    for key in path.split("."):
        document = document[key]
    return document


REQUIRED = [
    "state", "queue.events", "queue.bytes", "queue.oldest_age_s", "queue.complete_until",
    "ledger.received", "ledger.sent", "ledger.queued", "ledger.dead", "ledger.dropped",
    "ledger.refused", "ledger.repaired", "ledger.noted", "clock.trusted", "clock.by", "warnings",
]  # fmt: skip


@pytest.mark.parametrize("path", REQUIRED)
@pytest.mark.parametrize("running", [True, False])
def test_every_key_that_users_rely_on_is_there_whatever_the_state(clock, path, running):
    empty = Observation(
        books=Books(), used_bytes=0, max_bytes=None, oldest_us=None, running=running
    )
    dig(json.loads(json.dumps(status_of(empty, clock).document)), path)


def test_the_document_can_be_read_by_any_program_even_with_everything_in_it(clock):
    seen = replace(
        WELL,
        books=Books(received=3, queued=1, dropped={"purged": 2}, refused={"malformed": 4}),
        oldest_us=NOON_US - 1_000_000,
        near=(NEAR,),
        outlets=(OutletReport("main", "offline", "no route", 3.5, 12.0),),
        problems={"mqtt": "no broker", "http": None},
        config_problems=("a.toml: x",),
        secret_problems=("cannot use /etc/secret",),
    )
    document = status_of(seen, clock).document
    assert json.loads(json.dumps(document, allow_nan=False)) == document


def test_the_books_are_in_the_document(clock):
    books = Books(
        received=20,
        sent=9,
        queued=5,
        dead=3,
        dropped={"evicted": 1, "purged": 2},
        refused={"malformed": 4},
        repaired={"text_cut": 2},
        noted={"left_after_24h": 1},
        requests=7,
        bytes_sent=8000,
        bytes_received=900,
    )
    document = status_of(replace(WELL, books=books), clock).document
    assert document["ledger"] == {
        "received": 20,
        "sent": 9,
        "queued": 5,
        "dead": 3,
        "dropped": {"evicted": 1, "purged": 2},
        "refused": {"malformed": 4},
        "repaired": {"text_cut": 2},
        "noted": {"left_after_24h": 1},
        "balanced": True,
    }
    assert document["traffic"] == {"requests": 7, "bytes_sent": 8000, "bytes_received": 900}
    assert document["queue"]["events"] == 5
    assert document["queue"]["bytes"] == 8192


def test_books_that_do_not_balance_are_said_so(clock):
    document = status_of(replace(WELL, books=Books(received=2, sent=1)), clock).document
    assert document["ledger"]["balanced"] is False


def test_an_empty_queue_is_complete_until_now_and_has_no_oldest(clock):
    queue = status_of(WELL, clock).document["queue"]
    assert queue["complete_until"] == "2026-03-01T12:00:00+00:00"
    assert (queue["oldest_age_s"], queue["oldest_expires_in_s"]) == (None, None)


def test_the_oldest_event_says_until_when_and_how_long_it_may_wait(clock):
    seen = replace(WELL, oldest_us=NOON_US - 3_600_000_000)
    queue = status_of(seen, clock).document["queue"]
    assert queue["complete_until"] == "2026-03-01T11:00:00+00:00"
    assert queue["oldest_age_s"] == 3600.0
    assert queue["oldest_expires_in_s"] == EXPIRES_AFTER_US / 1e6 - 3600 == 70 * 3600.0


def test_an_event_of_the_future_has_no_age(clock):
    """A publisher elsewhere may be ahead; what is not old does not count backwards."""
    queue = status_of(replace(WELL, oldest_us=NOON_US + 5_000_000), clock).document["queue"]
    assert queue["oldest_age_s"] == 0
    assert queue["complete_until"] == "2026-03-01T12:00:00+00:00"


@pytest.mark.parametrize(
    ("oldest", "taken", "until"), [(2, 3, "09"), (3, 2, "09"), (None, 2, "10")]
)
def test_it_is_complete_until_the_first_that_is_missing(clock, oldest, taken, until):
    """Hours before noon: of the oldest event, and of what was not taken yet."""
    seen = replace(
        WELL,
        oldest_us=None if oldest is None else NOON_US - oldest * 3_600_000_000,
        taken_until_us=NOON_US - taken * 3_600_000_000,
    )
    queue = status_of(seen, clock).document["queue"]
    assert queue["complete_until"] == f"2026-03-01T{until}:00:00+00:00"
    assert queue["oldest_age_s"] == (None if oldest is None else oldest * 3600.0)


def test_a_publishers_time_before_1970_can_be_told(clock):
    queue = status_of(replace(WELL, oldest_us=-(10**18)), clock).document["queue"]
    assert queue["complete_until"] == "1970-01-01T00:00:00+00:00"


def test_of_all_that_waits_the_first_that_happened_is_the_oldest():
    """A publisher's word counts if it is earlier; a later one makes nothing younger."""
    stamp = Stamp(NOON_US, 0, "b", trusted=True)
    times = [(0, None), (1, NOON_US - 5), (2, NOON_US + 9), (3, None)]
    waiting = [Dated(replace(stamp, boot_us=us), time_us) for us, time_us in times]

    def when(stamp):
        return Moment(NOON_US + stamp.boot_us, 0)

    assert oldest_us(waiting, when) == NOON_US - 5
    assert oldest_us(waiting[2:], when) == NOON_US + 2
    assert oldest_us([], when) is None


def test_a_clock_that_the_kernel_trusts_says_so_and_how_well(clock):
    told = status_of(WELL, clock).document["clock"]
    assert (told["trusted"], told["by"]) == (True, "ntp")
    assert 0 <= told["error_s"] <= 0.05


def test_a_clock_that_nobody_trusts_has_no_error_that_could_be_told():
    clock = Clock(wall=lambda: NOON_US, boot=lambda: 1, boot_id="b", synchronised=lambda: False)
    told = status_of(WELL, clock).document["clock"]
    assert told == {"trusted": False, "by": "", "error_s": None}


def test_a_date_trusts_the_clock_with_the_error_that_a_date_has():
    clock = Clock(
        wall=lambda: 1_000_000, boot=lambda: 9_000_000, boot_id="b", synchronised=lambda: False
    )
    clock.confirm(
        server_us=NOON_US, error_us=500_000, sent_boot_us=8_900_000, received_boot_us=8_950_000
    )
    told = status_of(WELL, clock).document["clock"]
    assert (told["trusted"], told["by"]) == (True, "date")
    assert 0.5 <= told["error_s"] <= 2


@pytest.mark.parametrize(
    ("what", "said"),
    [("events_of_a_client", "events of one client on one day"), ("event_names", "event names")],
)
def test_what_comes_near_a_limit_of_ga4_is_warned_of(clock, what, said):
    near = Near(stream="shop", what=what, found=81_000, limit=100_000)
    [warning] = status_of(replace(WELL, near=(near,)), clock).document["warnings"]
    assert said in warning
    assert all(part in warning for part in ("shop", "81,000", "100,000"))


def test_every_problem_is_told_not_only_the_first(clock):
    seen = replace(WELL, config_problems=("x", "y"), secret_problems=("v", "w"))
    document = status_of(seen, clock).document
    assert document["config_problems"] == ["x", "y"]
    assert document["secret_problems"] == ["v", "w"]


def test_each_stream_and_source_is_told(clock):
    seen = replace(
        WELL,
        outlets=(OutletReport("main", "offline", "no route", 3.5, 12.0),),
        problems={"mqtt": "no broker", "http": None},
    )
    document = status_of(seen, clock).document
    assert document["streams"] == [
        {
            "stream": "main",
            "state": "offline",
            "reason": "no route",
            "next_try_s": 3.5,
            "delivered_ago_s": 12.0,
        }
    ]
    assert document["sources"] == {"mqtt": {"problem": "no broker"}, "http": {"problem": None}}


BLOCKED = replace(
    WELL, outlets=(outlet("clock_blocks_tls", name="shop", reason="certificate not yet valid"),)
)


def test_a_clock_that_blocks_tls_is_named_with_what_it_says_and_the_cure():
    early = Clock(
        wall=lambda: 10**12, boot=lambda: 10**8, boot_id="boot", synchronised=lambda: False
    )
    assert status_of(BLOCKED, early).reason == (
        "stream shop: the clock says 1970-01-12 13:46 UTC, before the certificate's beginning: "
        'set it (date -s "YYYY-MM-DD HH:MM:SS"), let NTP through (UDP 123), or fit a clock battery'
    )


def test_a_clock_that_is_right_by_now_is_not_to_be_set(clock):
    """It was wrong when TLS failed, or the certificate begins in the future."""
    reason = status_of(BLOCKED, clock).reason
    assert reason.startswith("stream shop: certificate not yet valid; the clock is right by now")
    assert "date -s" not in reason


def test_a_wall_clock_that_blocks_tls_is_to_be_set_though_the_time_is_known():
    """By the Date of another stream's answer."""
    clock = Clock(
        wall=lambda: 10**12, boot=lambda: 10**8, boot_id="boot", synchronised=lambda: False
    )
    clock.confirm(server_us=NOON_US, error_us=500_000, sent_boot_us=10**8, received_boot_us=10**8)
    assert clock.trusted
    assert "date -s" in status_of(BLOCKED, clock).reason
