"""Who is to blame for refused events, and at what cost it is found out: pure, against a model."""

import math

from hypothesis import given
from hypothesis import strategies as st

from agent.delivery.bisection import WITNESSES, Bisection, Parcel
from agent.ga4.outcome import Delivered, Rejected


class Endpoint:
    """Takes what is good, as long as it takes anything; and the line of events behind a batch."""

    def __init__(self, *, line=(), takes=True, remembers=False, answers=1000, closed=False):
        self.line = list(line)
        self.takes = takes
        self.remembered = remembers
        self.answers = answers
        self.closed = closed
        self.posts = []
        self.delivered = []
        self.back = []

    def send(self, parcels):
        if len(self.posts) == self.answers:
            self.give_back(parcels)
            return None
        ids = [parcel.id for parcel in parcels]
        self.posts.append(ids)
        if not self.takes or any(number < 0 for number in ids):
            return Rejected("refused_400")
        self.delivered += ids
        return Delivered()

    def next_in_line(self):
        if self.line:
            return [Parcel(self.line.pop(0), None)]
        return None if self.closed else []

    def give_back(self, parcels):
        self.back += [parcel.id for parcel in parcels]

    def remembers(self):
        return self.remembered

    def meet(self, ids, *, passed_over=0):
        """Who is blamed for the refused ones of a batch, and the bisection; bad ids are negative."""
        bisection = Bisection(
            send=self.send,
            next_in_line=self.next_in_line,
            give_back=self.give_back,
            remembers=self.remembers,
            passed_over=passed_over,
        )
        return bisection.blame([Parcel(number, None) for number in ids]), bisection


def refused(bisection):
    return [each.id for each in bisection.refused]


@given(size=st.integers(2, 25), where=st.integers(0, 24))
def test_one_bad_event_is_found_in_about_log2_steps(size, where):
    batch = [number if number - 1 != where % size else -number for number in range(1, size + 1)]
    endpoint = Endpoint()
    blame, bisection = endpoint.meet(batch)
    assert (blame, refused(bisection)) == ("events", [min(batch)])
    assert endpoint.delivered == [number for number in batch if number > 0]
    assert len(endpoint.posts) <= 1 + 2 * math.ceil(math.log2(size))


@given(size=st.integers(1, 25), line=st.integers(0, 80), remembers=st.booleans())
def test_when_everything_is_refused_the_endpoint_is_to_blame(size, line, remembers):
    """But for a single event, of which alone memory may speak."""
    batch, line = range(1, size + 1), range(100, 100 + line)
    blame, _ = Endpoint(line=line, takes=False, remembers=remembers).meet(batch)
    alone = size == 1 and not line
    assert blame == ("events" if alone and remembers else "endpoint")


@given(
    batch=st.lists(st.booleans(), min_size=1, max_size=25),
    line=st.lists(st.booleans(), max_size=60),
    answers=st.integers(0, 60),
    takes=st.booleans(),
    passed_over=st.integers(0, 60),
)
def test_every_event_is_delivered_or_refused_or_given_back_once(
    batch, line, answers, takes, passed_over
):
    ids = [n if good else -n for n, good in enumerate([*batch, *line], start=1)]
    here, behind = ids[: len(batch)], ids[len(batch) :]
    endpoint = Endpoint(line=behind, takes=takes, answers=answers)
    blame, bisection = endpoint.meet(here, passed_over=passed_over)
    found = endpoint.delivered + refused(bisection) + endpoint.back + endpoint.line
    assert sorted(found) == sorted(ids)
    assert not takes or all(number < 0 for number in refused(bisection))
    if blame == "events":
        assert endpoint.delivered
    if blame == "endpoint":
        assert not endpoint.delivered


def test_the_first_witness_that_passes_is_the_last_that_is_asked():
    endpoint = Endpoint(line=[-2, -3, 4, 5])
    blame, bisection = endpoint.meet([-1])
    assert (blame, refused(bisection)) == ("events", [-1, -2, -3])
    assert (endpoint.delivered, endpoint.line) == ([4], [5])


def test_each_attempt_asks_others_until_the_end_of_the_line():
    asked, passed_over = [], 0
    for _ in range(3):
        endpoint = Endpoint(line=range(-120, -1))
        blame, bisection = endpoint.meet([-1], passed_over=passed_over)
        assert blame == "endpoint"
        asked.append([ids[0] for ids in endpoint.posts[1:]])
        passed_over = bisection.passed_over
    assert asked[0] == list(range(-120, -120 + WITNESSES))
    assert asked[1] == list(range(-120 + WITNESSES, -120 + 2 * WITNESSES))
    assert asked[2] == list(range(-120 + 2 * WITNESSES, -1))
    assert passed_over == 0


def test_who_was_only_passed_over_is_somebody_to_ask():
    endpoint = Endpoint(line=[-2, -3], remembers=True)
    assert endpoint.meet([-1], passed_over=50)[0] == "endpoint"
    assert endpoint.back == [-2, -3]


def test_what_must_not_be_sent_now_blames_nobody():
    endpoint = Endpoint(closed=True, remembers=True)
    assert endpoint.meet([-1])[0] == "nobody"
