"""What the doctor says of what was found, subject by subject."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.doctor import clock, configuration, daemon, endpoint, queue, secrets
from agent.doctor.diagnosis import Diagnosis, trouble, worst
from agent.event import Stream
from agent.ga4.outcome import NoAnswer, Response
from agent.queue.ledger import Books
from agent.queue.reader import Snapshot

NOON_US = 1_772_366_400_000_000  # 2026-03-01 12:00 UTC
AFTER_POWER_ON_US = 1_000_000_000_000
STREAM = Stream(name="main", endpoint="https://ga4.example")
GOOD = Response(status=200, empty=False, date="Sun, 01 Mar 2026 12:00:00 GMT")
MINUTE_US = 60_000_000


def test_trouble_outweighs_what_was_not_seen_and_that_outweighs_the_rest():
    said = [Diagnosis(subject, subject, "") for subject in ("ok", "unseen", "trouble")]
    assert [worst(said[:number]) for number in range(4)] == ["ok", "ok", "unseen", "trouble"]


@pytest.mark.parametrize(
    ("given", "found", "cure"),
    [
        (("cannot use it; run this",), "cannot use it", "run this"),
        (("one; two; run this",), "one; two", "run this"),
        (("cannot use it",), "cannot use it", ""),
        (("one; two", "do that"), "one; two", "do that"),
    ],
)
def test_a_message_that_ends_in_its_cure_is_taken_apart(given, found, cure):
    assert trouble("x", *given) == Diagnosis("x", "trouble", found, cure)


# -- configuration ------------------------------------------------------------------------------

LOADED = configuration.Loaded(path="agent.toml", streams=("main",))


@pytest.mark.parametrize(
    ("more", "verdict", "said"),
    [
        ({}, "ok", "agent.toml is good: streams main"),
        (dict(problems=["a.toml: key"]), "trouble", "a.toml: key"),
        (dict(problems=["a.toml: key"], fallback=True), "trouble", "the last one that worked"),
        (dict(lies=["an example's id"]), "trouble", "an example's id"),
        (dict(streams=()), "trouble", "there is no stream"),
        (dict(files=["cannot read ca.pem"]), "trouble", "cannot read ca.pem"),
        (dict(files=["cannot read ca.pem"], service=False), "unseen", "cannot read ca.pem"),
        (dict(lacks=["no salt"]), "trouble", "no salt"),
    ],
)
def test_the_configuration_is_good_or_each_of_its_problems_is_said(more, verdict, said):
    [found] = configuration.examine(replace(LOADED, **more))
    assert (found.verdict, said in found.found) == (verdict, True)


def test_another_user_does_not_know_what_the_service_lacks():
    [found] = configuration.examine(replace(LOADED, lacks=["no salt"], service=False))
    assert found.verdict == "ok"


def test_a_configuration_that_cannot_be_used_is_not_blamed_for_having_no_stream():
    [found] = configuration.examine(replace(LOADED, problems=["no TOML"], streams=()))
    assert found.found == "no TOML"


# -- secrets ------------------------------------------------------------------------------------

STORED = secrets.Stored(
    stream="main", fingerprint="0a1b2c3d", place="/etc/credentials/main", mode=0o640
)
NONE = secrets.Stored(stream="main", place="/etc/credentials/main")


@pytest.mark.parametrize(
    ("stored", "verdict", "said"),
    [
        (STORED, "ok", "0a1b2c3d, from /etc/credentials/main, mode 0640"),
        (replace(STORED, served=True), "ok", "0a1b2c3d"),
        (replace(STORED, served=False), "trouble", "systemctl restart ga4-agent"),
        (replace(STORED, mode=0o644), "trouble", "run: chmod o-rwx /etc/credentials/main"),
        (replace(STORED, mode=0o642), "trouble", "mode 0642"),
        (NONE, "trouble", "run: ga4-agent secret set main"),
        (replace(NONE, problem="found no text; write it"), "trouble", "write it"),
        (replace(NONE, problem="found no permission", shut=True), "unseen", "run this as root"),
        (replace(NONE, problem="found no permission", shut=True, served=True), "ok", "daemon"),
    ],
)
def test_a_secret_is_there_and_for_few_or_it_is_said_what_to_do(stored, verdict, said):
    found = secrets.examine(stored)
    assert (found.verdict, said in f"{found.found} - {found.cure}") == (verdict, True)
    assert found.subject == "secret main"


@pytest.mark.parametrize("stored", [STORED, replace(NONE, shut=True, served=True)])
def test_it_never_claims_that_a_secret_is_right(stored):
    assert "whether it is right cannot be seen, because GA4 does not tell" in (
        secrets.examine(stored).found
    )


# -- the clock ----------------------------------------------------------------------------------

SEEN = clock.Witnesses(wall_us=NOON_US, ntp=False)
AGREED = clock.Heard(behind_us=300_000, error_us=500_000)
BEHIND = clock.Heard(behind_us=90 * MINUTE_US, error_us=500_000)
AHEAD = clock.Heard(behind_us=-3 * 86_400_000_000, error_us=500_000)
BY_DATE = {"trusted": True, "by": "date", "error_s": 0.6}


@pytest.mark.parametrize(
    ("more", "verdict", "said"),
    [
        (dict(ntp=True), "ok", "2026-03-01 12:00 UTC, set by NTP"),
        (dict(ntp=True, heard=AGREED), "ok", "as the endpoint does (to 0.5 s)"),
        (dict(heard=AGREED), "ok", "without NTP, as the endpoint does"),
        (dict(daemon=BY_DATE), "ok", "the daemon trusts the Date of an answer"),
        (dict(), "trouble", "without NTP, and no answer came"),
        (dict(daemon={"trusted": False}), "trouble", "timedatectl set-ntp true"),
        (dict(heard=BEHIND), "trouble", "5,399.5 s behind the endpoint"),
        (dict(heard=AHEAD), "trouble", "3 days ahead of the endpoint"),
        (dict(heard=BEHIND, ntp=True), "trouble", "timedatectl timesync-status"),
        (dict(wall_us=AFTER_POWER_ON_US), "trouble", "1970-01-12 13:46 UTC, which cannot be"),
        (dict(wall_us=AFTER_POWER_ON_US, ntp=True), "trouble", "fit a clock battery"),
        (dict(blocked=("main",)), "trouble", "clock_blocks_tls: it says 2026-03-01 12:00 UTC"),
        (dict(blocked=("main", "till")), "trouble", "UDP 123"),
        (dict(blocked=("main",), ntp=True), "trouble", "the certificate is wrong"),
    ],
)
def test_a_clock_is_right_or_it_is_said_how_wrong_and_what_cures_it(more, verdict, said):
    found = clock.examine(replace(SEEN, **more))
    assert (found.verdict, said in f"{found.found} - {found.cure}") == (verdict, True)


@given(behind_us=st.integers(-(10**16), 10**16), error_us=st.integers(0, 10**7))
def test_only_what_is_surely_off_by_a_minute_is_a_wrong_clock(behind_us, error_us):
    """However long the answer took."""
    heard = clock.Heard(behind_us=behind_us, error_us=error_us)
    found = clock.examine(replace(SEEN, heard=heard))
    assert (found.verdict == "trouble") == (abs(behind_us) - error_us > MINUTE_US)


# -- the endpoint -------------------------------------------------------------------------------

PROBE = endpoint.Probe(
    stream=STREAM, names=("main", "till"), answer=GOOD, sent_us=NOON_US, received_us=NOON_US
)
NOT_YET = NoAnswer(
    reason="cannot trust ga4.example: certificate is not yet valid; set the clock",
    maybe_sent=False,
    clock_blocks_tls=True,
)
NO_NAME = NoAnswer(reason="cannot find the address; check its DNS", maybe_sent=False)
PAGE = Response(status=200, empty=False, content_type="text/html", date=GOOD.date)


@pytest.mark.parametrize(
    ("answer", "verdict", "said"),
    [
        (GOOD, "ok", "https://ga4.example answers over verified TLS (200) in 0.0 s"),
        (Response(status=405, empty=True), "ok", "(405)"),
        (NO_NAME, "trouble", "offline: cannot find the address - check its DNS"),
        (PAGE, "trouble", "login_page: found a web page (200), expected 204 - log this device in"),
        (Response(status=302, empty=True), "trouble", "login_page: found a redirect"),
        (Response(status=511, empty=True), "trouble", "log this device in"),
        (Response(status=503, empty=True), "trouble", "offline: found 503, expected 204 - the end"),
        (Response(status=429, empty=True), "trouble", "asks to wait"),
        (NOT_YET, "trouble", "clock_blocks_tls: cannot trust ga4.example: certificate is not yet"),
        (NOT_YET, "trouble", " - see the line clock"),
    ],
)
def test_an_endpoint_answers_or_it_is_said_what_stands_in_between(answer, verdict, said):
    found = endpoint.examine(replace(PROBE, answer=answer))
    assert (found.verdict, said in f"{found.found} - {found.cure}") == (verdict, True)
    assert found.subject == "endpoint main, till"


@pytest.mark.parametrize("status", [401, 403, 404])
def test_what_ga4_would_not_answer_is_trouble_until_events_were_delivered_there(status):
    """An own server container may know no debug path, and take events all the same."""
    probe = replace(PROBE, answer=Response(status=status, empty=True))
    found = endpoint.examine(probe)
    assert found.verdict == "trouble"
    assert found.found == f"https://ga4.example answers {status}, which GA4 would not"
    assert found.cure.startswith("check [stream.main] and [stream.till] endpoint; of an own server")
    assert endpoint.examine(replace(probe, delivers=True)).verdict == "ok"
    google = replace(STREAM, endpoint="https://region1.google-analytics.com")
    found = endpoint.examine(replace(probe, stream=google, names=("main",), delivers=True))
    assert (found.verdict, found.cure) == ("trouble", "check [stream.main] endpoint")


def test_an_endpoint_that_refuses_the_daemon_s_events_is_trouble_whatever_it_answers_here():
    found = endpoint.examine(replace(PROBE, refused="found 404, expected 204; check endpoint"))
    assert found.verdict == "trouble"
    assert found.found.endswith("does not take the daemon's events: found 404, expected 204")
    assert found.cure == "check [stream.main] and [stream.till] endpoint"


def test_the_clocks_are_compared_in_the_middle_of_the_exchange():
    """The Date names a second, whose middle is at most half a second off."""
    probe = replace(PROBE, sent_us=NOON_US - 3_500_000, received_us=NOON_US + 500_000)
    assert probe.heard == clock.Heard(behind_us=2_000_000, error_us=2_500_000)


@pytest.mark.parametrize("answer", [PAGE, NO_NAME, replace(GOOD, date="")])
def test_what_may_not_be_the_endpoint_says_nothing_of_the_time(answer):
    assert replace(PROBE, answer=answer).heard is None


# -- daemon and queue ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "reason", "verdict", "cure"),
    [
        ("ok", "", "ok", ""),
        ("draining", "500 events are on their way", "ok", ""),
        ("paused", "by hand", "trouble", "ga4-agent resume"),
        ("unconfigured", "no api_secret; run: ga4-agent secret set x", "trouble", "secret set x"),
        ("unconfigured", "no stream", "trouble", "docs/operating.md"),
    ],
)
def test_what_the_daemon_says_of_itself_is_passed_on_with_a_cure(state, reason, verdict, cure):
    found = daemon.running({"state": state, "reason": reason})
    assert (found.verdict, state in found.found, cure in found.cure) == (verdict, True, True)


def test_books_that_do_not_balance_are_to_be_reported():
    found = queue.readable(Snapshot(Books(received=2, sent=1), 4096, None))
    assert (found.verdict, found.cure) == ("trouble", "please report this")
    assert queue.readable(Snapshot(Books(received=2, sent=2), 4096, None)).verdict == "ok"
