"""Topic filters: what is subscribed, and what stood at the named wildcards."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.client import topic_matches_sub

from agent.topic import TopicError, TopicFilter

LEVELS = st.text(alphabet="ab$ä", max_size=2)
TOPICS = st.lists(LEVELS, min_size=1, max_size=4).map("/".join).filter(bool)


@st.composite
def filters(draw):
    """A sound filter without names."""
    levels = draw(st.lists(LEVELS | st.just("+"), min_size=1, max_size=4))
    levels += ["#"] if draw(st.booleans()) else []
    return "/".join(levels)


@pytest.mark.parametrize(
    ("text", "plain", "names"),
    [
        ("a/b", "a/b", ()),
        ("+/#", "+/#", ()),
        ("kiosk/+site/+/events", "kiosk/+/+/events", ("site",)),
        ("+_a/+B2/#rest", "+/+/#", ("_a", "B2", "rest")),
        ("$share/group/+site/x", "$share/group/+/x", ("site",)),
    ],
)
def test_the_broker_is_told_the_filter_without_the_names(text, plain, names):
    read = TopicFilter.read(text)
    assert (read.plain, read.names) == (plain, names)


@pytest.mark.parametrize(
    ("text", "topic", "found"),
    [
        ("kiosk/+site/events", "kiosk/12/events", {"site": "12"}),
        ("kiosk/+site/events", "kiosk//events", {"site": ""}),
        ("kiosk/+site/events", "kiosk/12/other", None),
        ("kiosk/+site/events", "kiosk/12/events/more", None),
        ("kiosk/+site/events", "kiosk/12", None),
        ("+a/#rest", "x/y/z", {"a": "x", "rest": "y/z"}),
        ("+a/#rest", "x", {"a": "x", "rest": ""}),
        ("#all", "x/y", {"all": "x/y"}),
        ("#all", "$SYS/uptime", None),
        ("+all", "$SYS", None),
        ("$SYS/+what", "$SYS/uptime", {"what": "uptime"}),
        ("$share/group/a/+site", "a/1", {"site": "1"}),
    ],
)
def test_a_topic_gives_what_stood_at_the_names(text, topic, found):
    assert TopicFilter.read(text).match(topic) == found


@given(text=filters(), topic=TOPICS)
def test_a_filter_fits_what_the_broker_says_it_fits(text, topic):
    """paho's own matching is what the messages are picked by."""
    try:
        read = TopicFilter.read(text)
    except TopicError:
        assert text == ""
        return
    assert (read.match(topic) is not None) == topic_matches_sub(text, topic)


@given(text=filters(), topic=TOPICS)
def test_names_change_nothing_of_what_fits(text, topic):
    levels = text.split("/")
    named = [f"{level}n{i}" if level in ("+", "#") else level for i, level in enumerate(levels)]
    if not text:
        return
    plain, with_names = TopicFilter.read(text), TopicFilter.read("/".join(named))
    assert with_names.plain == plain.plain
    assert (with_names.match(topic) is None) == (plain.match(topic) is None)


@given(text=st.text(alphabet="+#/$ a1_", max_size=8) | st.text())
def test_any_text_is_a_filter_or_says_what_is_expected(text):
    try:
        read = TopicFilter.read(text)
    except TopicError as error:
        told = str(error)
    else:
        assert not any(name in ("json", "value", "topic") for name in read.names)
        return
    assert told
