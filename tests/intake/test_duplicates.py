"""What was taken before is known again, also by two threads at once."""

import threading
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.intake.duplicates import CONTENTS, Asked, Unsettled, Window, delivery, marks
from agent.queue.entries import Seen
from tests.waiting import until


def window(*, known=(), size=100, patience=10.0):
    return Window(
        load=lambda kind: [(one.key, one.digest) for one in known if one.kind == kind],
        size=size,
        patience=patience,
    )


def take(of, *seen, look=True):
    """Claim and commit one thing; what it was."""
    with of.claim([Asked(seen, look)]) as claim:
        claim.committed()
    return claim.verdicts[0]


ID = Seen("event_id", "a")
PAID = Seen("transaction", "t", "10 EUR")
PAID_MORE = Seen("transaction", "t", "20 EUR")


def test_what_was_committed_is_a_duplicate_and_what_was_released_is_not():
    of = window()
    with of.claim([Asked((ID,))]) as claim:
        assert claim.verdicts == ("fresh",)
        assert claim.seen == (ID,)
    assert take(of, ID) == "fresh"
    assert take(of, ID) == "duplicate"


def test_a_duplicate_brings_nothing_to_be_keep():
    of = window(known=[ID])
    assert of.claim([Asked((ID,))]).seen == ()


def test_a_window_knows_what_was_committed_before_the_start():
    of = window(known=[ID, PAID])
    assert take(of, ID) == take(of, PAID) == "duplicate"


def test_a_transaction_with_other_content_is_a_conflict_and_each_content_is_known_then():
    of = window()
    assert [take(of, one) for one in (PAID, PAID_MORE, PAID, PAID_MORE)] == [
        "fresh", "conflict", "duplicate", "duplicate",
    ]  # fmt: skip


def test_a_repeated_transaction_under_a_new_event_id_is_a_duplicate_that_leaves_no_trace():
    of = window(known=[PAID])
    assert take(of, ID, PAID) == "duplicate"
    assert take(of, ID) == "fresh"


def test_equal_events_in_one_message_are_one_and_nobody_waits_for_himself():
    claim = window(patience=0.0).claim(
        [Asked((ID,)), Asked((ID,)), Asked((PAID,)), Asked((PAID_MORE,)), Asked((PAID,))]
    )
    assert claim.verdicts == ("fresh", "duplicate", "fresh", "conflict", "duplicate")
    assert claim.seen == (ID, PAID, PAID_MORE)


def test_what_is_not_looked_up_is_taken_and_remembered():
    of = window()
    first = delivery("t", 7, b"on")
    assert [take(of, first, look=False) for _ in range(2)] == ["fresh", "fresh"]
    assert take(of, first) == "duplicate"


def test_beyond_its_size_a_window_forgets_the_oldest_of_a_kind():
    of = window(size=3)
    take(of, PAID)
    for number in range(4):
        take(of, Seen("event_id", str(number)))
    assert take(of, PAID) == "duplicate", "another kind has a window of its own"
    assert take(of, Seen("event_id", "1")) == "duplicate"
    assert take(of, Seen("event_id", "0")) == "fresh"


def test_of_one_transaction_a_bounded_number_of_contents_is_kept():
    of = window()
    for number in range(3 * CONTENTS):
        assert take(of, Seen("transaction", "t", str(number))) == (
            "conflict" if number else "fresh"
        )
    assert take(of, Seen("transaction", "t", "0")) == "conflict"
    assert take(of, Seen("transaction", "t", str(3 * CONTENTS - 1))) == "duplicate"


@pytest.mark.parametrize(("taken", "verdict"), [(True, "duplicate"), (False, "fresh")])
def test_a_second_claim_waits_until_the_first_is_settled(taken, verdict):
    """Else the second one's acknowledgement could tell of a commit that failed."""
    of, second = window(), []
    first = of.claim([Asked((ID,))])
    thread = threading.Thread(target=lambda: second.append(take(of, ID)))
    thread.start()
    until(lambda: of._settled._waiters, "the second one waits")
    assert second == []
    first.committed() if taken else first.released()
    thread.join()
    assert second == [verdict]


def test_a_wait_for_another_commit_is_bounded():
    of = window(patience=0.01)
    of.claim([Asked((ID,))])
    with pytest.raises(Unsettled):
        of.claim([Asked((PAID,)), Asked((ID,))])
    assert take(of, PAID) == "fresh", "who gave up holds nothing"


def test_a_commit_that_raises_releases_what_was_claimed():
    of = window(patience=0.0)
    with pytest.raises(OSError, match="disk"), of.claim([Asked((ID,))]):
        raise OSError("disk")
    assert take(of, ID) == "fresh"


def test_of_many_threads_each_thing_is_taken_by_one_whatever_their_order():
    """Half of the commits fail; two things that are claimed in opposite orders lock nobody."""
    of, taken, going = window(size=10_000), [], threading.Barrier(8)

    def bring(me):
        going.wait()
        for number in range(100):
            pair = [Asked((Seen("event_id", f"{number}{side}"),)) for side in "ab"]
            with of.claim(pair if me % 2 else pair[::-1]) as claim:
                if (number + me) % 2:
                    taken.extend(claim.seen)
                    claim.committed()

    threads = [threading.Thread(target=bring, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(one.key for one in taken) == sorted(f"{n}{s}" for n in range(100) for s in "ab")


# -- by what it is known --------------------------------------------------------------------


def paid(make_event, name="purchase", stream="main", **params):
    return make_event(name, stream=stream, params=params, event_id="x")


def of_transaction(event):
    return marks(event, who="", brought_id=False)


def test_an_event_without_id_of_its_own_and_transaction_has_no_marks(make_event):
    assert marks(make_event(), who="", brought_id=False) == ()


def test_an_event_id_is_known_of_one_client_stream_and_name(make_event):
    event, other = make_event(event_id="1"), make_event("vend", event_id="1")
    keys = [
        marks(event, who="", brought_id=True),
        marks(event, who="1.2", brought_id=True),
        marks(other, who="", brought_id=True),
        marks(make_event(event_id="1", stream="s"), who="", brought_id=True),
        marks(make_event(event_id="2"), who="", brought_id=True),
    ]
    assert len(set(keys)) == len(keys)
    assert marks(make_event(event_id="1"), who="", brought_id=True) == keys[0]


def test_a_transaction_is_known_by_its_id_and_its_content_apart(make_event):
    [first] = of_transaction(paid(make_event, transaction_id="T", value=1))
    [same] = of_transaction(paid(make_event, value=1, transaction_id="T"))
    [more] = of_transaction(paid(make_event, transaction_id="T", value=2))
    [refund] = of_transaction(paid(make_event, "refund", transaction_id="T", value=1))
    assert (
        first
        == same
        == of_transaction(
            make_event("purchase", params={"transaction_id": "T", "value": 1}, event_id="other")
        )[0]
    )
    assert first.key == more.key != refund.key
    assert first.digest != more.digest


def test_whoever_else_says_the_same_transaction_has_made_another_one(make_event):
    """Two machines behind one gateway may both number from 1: neither's sale may be lost."""
    event = paid(make_event, transaction_id="1", value=1.5)
    user = replace(event, sender=replace(event.sender, user_id="u"))
    found = [
        *marks(event, who="11.1", brought_id=False),
        *marks(event, who="22.2", brought_id=False),
        *marks(user, who="11.1", brought_id=False),
        *marks(event, who="11.1", brought_id=False, said_us=1_795_430_000_000_000),
        *marks(event, who="11.1", brought_id=False, said_us=1_795_433_600_000_000),
    ]
    assert len({seen.digest for seen in found}) == len(found) == 5
    assert len({seen.key for seen in found}) == 1, "GA4 may take them for one: that is told"
    timed = replace(event, time_us=1_795_430_000_000_000)
    assert marks(timed, who="11.1", brought_id=False) == (found[3],)


@pytest.mark.parametrize("measured", ["session_id", "engagement_time_msec", "timestamp_micros"])
def test_a_repeat_may_be_measured_anew(make_event, measured):
    first = of_transaction(paid(make_event, transaction_id="T", value=1, **{measured: 5}))
    again = of_transaction(paid(make_event, transaction_id="T", value=1, **{measured: 9}))
    without = of_transaction(paid(make_event, transaction_id="T", value=1))
    assert first == again == without != ()


@pytest.mark.parametrize("name", ["payment_retry", "in_app_purchase", "add_payment_info"])
def test_what_is_no_purchase_and_no_refund_is_not_known_by_a_transaction(make_event, name):
    assert of_transaction(paid(make_event, name, transaction_id="T")) == ()


def test_of_one_sale_parts_may_be_given_back_and_that_is_no_number_used_twice(make_event):
    of, params = window(), {"transaction_id": "T", "value": 1, "currency": "EUR"}

    def refund(**said):
        known = {"who": "", "brought_id": False} | said
        event = make_event("refund", params=params, event_id=known.pop("event_id", "made"))
        return take(of, *marks(event, **known))

    assert refund(said_us=1_795_430_000_000_000) == "fresh"
    assert refund(said_us=1_795_433_600_000_000) == "fresh"
    assert refund(said_us=1_795_433_600_000_000) == "duplicate"
    assert refund() == "fresh"
    assert refund() == "duplicate"
    # A till's own number of each refund tells two of one amount apart, too.
    assert refund(event_id="4712", brought_id=True) == "fresh"
    assert refund(event_id="4713", brought_id=True) == "fresh"
    assert refund(event_id="4713", brought_id=True) == "duplicate"


def test_what_another_agent_hands_on_is_known_by_the_id_that_it_gave(make_event):
    params = {"event_id": "e0123456789abcdef"}
    [first] = marks(make_event(params=params, event_id="made 1"), who="1.2", brought_id=False)
    [again] = marks(make_event(params=params, event_id="made 2"), who="1.2", brought_id=False)
    assert first == again
    [direct] = marks(make_event(event_id=params["event_id"]), who="1.2", brought_id=True)
    assert direct == first
    assert marks(make_event(params=params), who="3.4", brought_id=False) != (first,)


@pytest.mark.parametrize("param", ["concert-42", "abc", 7, "", "e0123456789abcdeg", None])
def test_what_a_publisher_calls_event_id_among_its_params_is_no_mark(make_event, param):
    """A kiosk that sells tickets may mean a concert: each look at it is another event."""
    assert marks(make_event(params={"event_id": param}), who="", brought_id=False) == ()


@pytest.mark.parametrize("empty", ["", "  ", "\t", None, True, [], {}])
def test_what_names_no_transaction_is_no_mark(make_event, empty):
    assert of_transaction(paid(make_event, transaction_id=empty)) == ()


def test_a_transaction_is_the_same_as_number_and_as_text_but_its_content_is_not(make_event):
    [number] = of_transaction(paid(make_event, transaction_id=12))
    [text] = of_transaction(paid(make_event, transaction_id="12"))
    assert number.key == text.key
    assert number.digest != text.digest


TEXT = st.text(max_size=5)


@given(one=st.tuples(TEXT, st.integers(0, 65535), st.binary(max_size=5)), other=st.data())
def test_deliveries_are_the_same_if_topic_id_and_payload_are(one, other):
    second = other.draw(st.tuples(TEXT, st.integers(0, 65535), st.binary(max_size=5)))
    assert (delivery(*one) == delivery(*second)) == (one == second)
    assert delivery(*one) == delivery(*one)


def test_no_mark_holds_what_it_was_made_of(make_event):
    event = make_event("purchase", params={"transaction_id": "4711"}, event_id="secret-id")
    text = repr(marks(event, who="card-4711", brought_id=True)) + repr(delivery("4711", 1, b"4711"))
    assert "4711" not in text
    assert "secret" not in text
