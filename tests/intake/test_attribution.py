"""Whose an event is, and what of the device is added: only to ids that were made here."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.event import InvalidEvent, Sender, Stamp, Stream
from agent.intake.attribution import Attribution, Device
from agent.intake.judging import Judge
from agent.intake.message import Message
from agent.intake.parse import Draft
from agent.secret import Secret
from tests.sorters import sorter

WEB = Stream(name="main", endpoint="http://127.0.0.1", measurement_id="G-MAIN")
APP = Stream(name="app", endpoint="http://127.0.0.1", firebase_app_id="1:1:android:a")
DEVICE = Device(
    client_id="9.9",
    app_instance_id="a" * 32,
    user_id="the device's",
    user_properties={"tier": "x"},
    consent={"ad_user_data": "DENIED"},
    hardware={"model": "Board"},
    location={"city": "Bern"},
)
SALT = Secret("a long text that nobody else knows")
VISITOR = "_ga=GA1.1.11.22"
SESSION = "_ga_MAIN=GS1.1.1700000000.1.0.0.0.0.0"

ids = st.none() | st.text(max_size=2)  # none of the device's own
said = st.dictionaries(
    st.sampled_from(["tier", "ad_user_data", "model", "city"]), st.integers(0, 3)
)
senders = st.builds(
    Sender,
    client_id=ids,
    app_instance_id=ids,
    user_id=ids,
    user_properties=said,
    consent=said,
    device=said,
    location=said,
    rest=st.dictionaries(st.sampled_from(["ip_override", "user_agent"]), st.text(), max_size=2),
)
streams = st.sampled_from([WEB, APP, None])


def of(draft=None, *, cookies="", stream=WEB, salt=None):
    return Attribution(device=DEVICE, salt=salt).of(draft or drafted(), cookies, stream)


def drafted(sender=None, **said):
    return Draft(name="tap", sender=sender or Sender(), **said)


@given(senders, streams)
def test_nothing_of_the_device_is_added_to_a_named_sender(sender, stream):
    if not sender.named:
        return
    whose = of(drafted(sender), stream=stream)
    assert whose.sender == sender
    assert (whose.own, whose.made, whose.session_id) == (False, False, None)


@given(senders, streams)
def test_an_unnamed_sender_is_the_device_with_what_was_said_over_it_key_by_key(sender, stream):
    if sender.named:
        return
    whose, device = of(drafted(sender), stream=stream), DEVICE.sender(stream)
    assert (whose.own, whose.made) == (True, True)
    merged = whose.sender
    assert (merged.client_id, merged.app_instance_id) == (device.client_id, device.app_instance_id)
    assert merged.user_id == (sender.user_id or device.user_id)
    # A place is one thing: the country of one and the city of another are nowhere.
    assert merged.location == (sender.location or device.location)
    for part in ("user_properties", "consent", "device", "rest"):
        assert getattr(merged, part) == {**getattr(device, part), **getattr(sender, part)}


@pytest.mark.parametrize(
    ("stream", "said"), [(WEB, {"client_id": "9.9"}), (APP, {"app_instance_id": "a" * 32})]
)
def test_who_says_the_device_s_own_id_is_the_device(stream, said):
    """A program that has asked for the id: it was made here, whoever repeats it."""
    whose = of(drafted(Sender(**said)), stream=stream, cookies=f"{VISITOR}; {SESSION}")
    assert whose == of(stream=stream)
    other = APP if stream is WEB else WEB
    assert not of(drafted(Sender(**said)), stream=other).own


@pytest.mark.parametrize(
    ("stream", "id_"),
    [
        (WEB, {"client_id": "9.9"}),
        (None, {"client_id": "9.9"}),
        (APP, {"app_instance_id": "a" * 32}),
    ],
)
def test_the_device_has_one_id_of_the_streams_kind(stream, id_):
    body = of(stream=stream).sender.body
    assert {k: v for k, v in body.items() if k in ("client_id", "app_instance_id")} == id_


def test_a_visitors_cookie_lends_id_and_session_and_nothing_of_the_device():
    whose = of(cookies=f"{VISITOR}; {SESSION}")
    assert whose.sender == Sender(client_id="11.22")
    assert (whose.own, whose.made, whose.session_id) == (False, False, 1_700_000_000)


def test_another_visitors_cookie_says_nothing_of_a_named_ones_session():
    theirs = of(drafted(Sender(client_id="11.22")), cookies=f"{VISITOR}; {SESSION}")
    anothers = of(drafted(Sender(client_id="3.4")), cookies=f"{VISITOR}; {SESSION}")
    assert (theirs.session_id, anothers.session_id) == (1_700_000_000, None)


def test_a_cookies_text_as_client_id_is_the_id_in_it():
    assert of(drafted(Sender(client_id="GA1.1.11.22"))).sender.client_id == "11.22"


def test_an_app_stream_borrows_nothing_from_cookies():
    assert of(cookies=VISITOR, stream=APP).own


def test_a_key_is_an_id_that_was_made_here_but_is_not_the_devices():
    one, same, other = (of(drafted(client_key=key), salt=SALT) for key in ("card 1", "card 1", "x"))
    assert one == same
    assert (one.own, one.made) == (False, True)
    assert len({one.sender.client_id, other.sender.client_id, DEVICE.client_id}) == 3
    assert one.sender.consent == DEVICE.consent
    assert "card" not in repr(one)


def test_on_an_app_stream_a_key_is_refused_for_it_would_be_a_client_id():
    with pytest.raises(InvalidEvent, match="app stream"):
        of(drafted(client_key="card 1"), stream=APP, salt=SALT)


def test_without_a_salt_a_key_is_refused_and_not_repeated():
    with pytest.raises(InvalidEvent, match="there is no salt") as refused:
        of(drafted(client_key="4711"))
    assert "4711" not in str(refused.value)


def test_the_devices_user_is_not_put_on_a_key_for_all_cards_would_be_one_user():
    assert of(drafted(client_key="card 1"), salt=SALT).sender.user_id is None
    said = drafted(Sender(user_id="u"), client_key="card 1")
    assert of(said, salt=SALT).sender.user_id == "u"


def test_a_key_goes_before_cookies_and_an_id_before_a_key():
    cookies = f"{VISITOR}; {SESSION}"
    keyed = of(drafted(client_key="card 1"), cookies=cookies, salt=SALT)
    assert (keyed.made, keyed.session_id) == (True, None)
    named = drafted(Sender(client_id="3.4"), client_key="card 1")
    assert of(named, salt=SALT).sender == Sender(client_id="3.4")


NEWER = "_ga_MAIN=GS2.1.s1764888982$o50$g1$t1764890260$j59"


@pytest.mark.parametrize(("cookie", "session"), [(SESSION, 1_700_000_000), (NEWER, 1_764_888_982)])
@pytest.mark.parametrize("client_id", [None, "11.22", "GA1.1.11.22"])
def test_a_borrowed_id_has_the_session_of_its_cookie_for_this_stream(cookie, session, client_id):
    whose = of(drafted(Sender(client_id=client_id)), cookies=f"{VISITOR}; {cookie}")
    assert (whose.sender, whose.session_id) == (Sender(client_id="11.22"), session)
    other = f"{VISITOR}; {cookie}".replace("_MAIN", "_OTHER")
    assert of(drafted(Sender(client_id=client_id)), cookies=other).session_id is None


def test_a_session_cookie_that_an_event_brings_with_its_id_is_its_session():
    assert of(drafted(Sender(client_id="3.4"), cookies=NEWER)).session_id == 1_764_888_982


def test_cookies_that_an_event_says_go_before_those_of_the_request():
    whose = of(drafted(cookies="_ga=GA1.1.3.4"), cookies=f"{VISITOR}; {SESSION}")
    assert (whose.sender, whose.session_id) == (Sender(client_id="3.4"), None)


@pytest.mark.parametrize("cookies", ["", "x=1", "_ga=", "_ga=nonsense", SESSION])
def test_cookies_that_name_nobody_leave_the_event_to_the_device(cookies):
    """A session without a visitor is nobody's: it is not put on the device's own id."""
    whose = of(cookies=cookies)
    assert (whose.own, whose.sender.client_id, whose.session_id) == (True, "9.9", None)


# -- ids that are a person's, at the door -------------------------------------------------------


def brought(client_id, *, keep_pii=False, answerable=True):
    """What becomes of an event with a borrowed client_id."""
    the_sorter = sorter(streams={"main": WEB}, judges={"main": Judge(keep_pii=keep_pii)})
    payload = json.dumps({"name": "tap", "client_id": client_id}).encode()
    message = Message(source="s", payload=payload, answerable=answerable)
    return the_sorter.sort(message, Stamp(1_800_000_000_000_000, 1, "boot", trusted=True))


@pytest.mark.parametrize("client_id", ["4111111111111111", "jane@example.com"])
def test_an_event_of_a_card_number_or_an_address_is_refused_with_what_to_use_instead(client_id):
    refused = brought(client_id)
    assert (refused.items, refused.refused) == ((), 1)
    [error] = refused.rejected
    assert error.field_path == "client_id"
    assert "hand it in as client_key and set id_salt_file" in str(error)
    assert client_id not in str(error)


def test_one_that_nobody_waits_for_is_a_dead_letter_that_says_why():
    [letter] = brought("4111111111111111", answerable=False).items
    assert letter.reason == "invalid"
    assert "client_key" in letter.why


def test_where_personal_data_is_kept_such_ids_are_too():
    [ready] = brought("4111111111111111", keep_pii=True).items
    assert ready.event.sender.client_id == "4111111111111111"


@given(senders, streams)
def test_who_is_known_by_a_cookie_has_what_was_said_and_nothing_of_the_device(sender, stream):
    if sender.named or stream is APP:
        return
    whose = of(drafted(sender), cookies=VISITOR, stream=stream)
    assert whose.sender == replace(sender, client_id="11.22")
    assert (whose.own, whose.made) == (False, False)
