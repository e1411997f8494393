"""What looks like personal data is taken out and counted; what only resembles it stays."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.event import Event, InvalidEvent, Sender, Stamp
from agent.ga4.privacy import without_debug_mode, without_pii
from tests.ga4.verdicts import NOW_US

STAMP = Stamp(wall_us=NOW_US, boot_us=1, boot_id="boot", trusted=True)
# Published test numbers of the networks.
CARDS = (
    "4111111111111111", "4012888888881881", "4222222222222", "5555555555554444",
    "5105105105105100", "2223003122003222", "378282246310005", "371449635398431",
    "6011111111111117", "30569309025904", "38520000023237", "36227206271667",
    "3530111333300000", "6200000000000005", "6304000000000000", "2200000000000004",
)  # fmt: skip


def event(*, sender=None, **params):
    return Event(
        name="tap", stream="main", sender=sender or Sender(client_id="1.2"), stamp=STAMP,
        event_id="e", params=params,
    )  # fmt: skip


def taken(value, name="p"):
    """What is left of a param, and how many were counted."""
    cleaned, number = without_pii(event(**{name: value}))
    return cleaned.params.get(name), number


GONE = (None, 1)

# -- e-mail addresses -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "jane@example.com", "Jane.Doe+kiosk@mail.example.co.uk", "jane%40example.com",
        "JANE%2540EXAMPLE.COM", "write to jane@example.com, please", "<jane@example.com>",
        "jörg@müller.de", "jane@xn--mller-kva.de", "mailto:jane@example.com", "o'neill@example.ie",
        "jane@example.xn--p1ai", "jane%40example%2Ecom", "x" * 10_000 + "@example.com",
    ],
)  # fmt: skip
def test_what_holds_an_email_address_goes(text):
    assert taken(text) == GONE


@pytest.mark.parametrize(
    "text",
    [
        "jane", "@jane", "jane@home", "a @ b.de", "logo@2x.png", "lodash@4.17.21", "@example.com",
        "40example.com", "100%40 off", "3@5", "", "jane(at)example.com",
    ],
)  # fmt: skip
def test_what_holds_none_stays(text):
    assert taken(text) == (text, 0)


# -- card numbers -----------------------------------------------------------------------------


@pytest.mark.parametrize("card", CARDS)
def test_what_holds_a_card_number_goes(card):
    for text in (card, f"paid with {card}.", f"card-{card}", f"{card} 12/27 123", f"1 {card}"):
        assert taken(text) == GONE, text
    assert taken(int(card)) == GONE
    assert taken(float(card)) == GONE


@pytest.mark.parametrize(
    "text",
    [
        "4111 1111 1111 1111", "4111-1111-1111-1111", "4111+1111+1111+1111",
        "4111%201111%201111%201111", "4111\N{NO-BREAK SPACE}1111 1111-1111", "3782 822463 10005",
        "41111111 11111111", "%204111111111111111", "nr. 1 4111 1111 1111 1111 12/27 123",
        "4111.1111.1111.1111", "4111_1111_1111_1111", "4111/1111/1111/1111", "3782.822463.10005",
        "4111\t1111\t1111\t1111", "4111  1111  1111  1111", "4111 - 1111 - 1111 - 1111",
        "4111\N{EN DASH}1111\N{EN DASH}1111\N{EN DASH}1111", "4111%20%201111%20%201111%20%201111",
        "4111\n1111\n1111\n1111", "4111. 1111 1111-1111", "3056_930902_5904",
    ],
)  # fmt: skip
def test_digits_may_be_grouped(text):
    assert taken(text) == GONE


@pytest.mark.parametrize(
    "value",
    [
        "4111111111111112",  # Luhn
        "4111 1111 1111 1112",
        "1111111111111117",  # no network's, though Luhn is right
        "9111111111111111",
        "411111111111111",  # 15 digits are no Visa card's
        "41111111111111111111",  # 20
        "4111.1111.1111.1112",
        # Groups that no card has, with what also stands in decimals, paths and ids of parts.
        "411111.1111111111", "4111111111.111111", "411111111.1111111111", "41111111/11111111",
        "411_1111111111111", "4111.111111111111", "4111  111111111111", "41111.11111.111111",
        "4111,1111,1111,1111",
        "a4111111111111111",
        "4111111111111111f",
        "4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1",
        "1234567890.1700000000",
        "550e8400-e29b-41d4-a716-446655440000",
        "2026-11-23 11:22:33", "2026.11.23 11.22.33", "2026/1123/1122/3344",
        "1795430000.123456", "1795430000_1795430001", "192.168.100.200", "4.111.111.111.111.111",
        "+49 30 123456-7890",
        1_700_000_000, 1_700_000_000_000, 1_700_000_000_000_000, 1_700_000_000_000_000_000,
        4111111111111111.5, True, None, -4111111111111111, pytest.param(10**5000, id="huge"), float("nan"), float("inf"),
    ],
)  # fmt: skip
def test_other_numbers_stay(value):
    cleaned, number = without_pii(given := event(p=value))
    assert (cleaned is given, number) == (True, 0)


@pytest.mark.parametrize(
    "name", ["transaction_id", "event_id", "session_id", "timestamp_micros"]
)  # fmt: skip
def test_plain_digits_stay_where_they_tell_sales_and_sittings_apart(name):
    for value in ("4111111111111111", 4111111111111111):
        assert taken(value, name) == (value, 0)
    assert taken("4111 1111 1111 1111", name) == GONE
    assert taken("jane@example.com", name) == GONE


@pytest.mark.parametrize("name", ["item_id", "ean", "gtin", "product_sku", "barcode", "coupon_id"])
def test_the_codes_of_goods_stay_where_goods_are_named(name):
    """4222222222222 could be the code of something from Germany to Japan."""
    for code in ("4222222222222", "30569309025904"):
        assert taken(code, name) == (code, 0)
        assert taken(code) == GONE
    assert taken("4111111111111111", name) == GONE


def test_codes_of_goods_stay_under_any_name():
    """Those from Germany begin with 4, as old cards of 13 digits, and one in ten passes Luhn."""
    codes = [ean(f"400638133{number:03}") for number in range(1000)]
    assert {taken(code, "article")[1] for code in codes} == {0}
    assert {taken(int(code), "article")[1] for code in codes} == {0}
    assert taken("4222222222222", "article") == GONE, "a card's number that is no code of goods"


def ean(digits):
    """With the check digit."""
    weighed = sum(int(digit) * (3 if place % 2 else 1) for place, digit in enumerate(digits))
    return f"{digits}{-weighed % 10}"


@pytest.mark.parametrize("name", ["transaction_id", "order_id"])
def test_of_an_identifier_only_groups_as_on_a_card_count(name):
    """A machine's number and the time of its sale: one in ten of these would be a lost sale."""
    sales = [f"455-{1_795_430_000_000 + number}" for number in range(200)]
    assert {taken(sale, name)[1] for sale in sales} == {0}
    assert {taken(sale, "note")[1] for sale in sales} == {0, 1}
    for card in ("4111-1111-1111-1111", "3782 822463 10005", "7/4111/1111/1111/1111"):
        assert taken(card, name) == GONE


def test_ordinary_numbers_are_rarely_hit():
    """Of random numbers one in ten passes Luhn; the networks' first digits make it fewer."""
    chance = random.Random(1)
    hits = sum(taken(str(chance.randrange(10**15, 10**16)))[1] for _ in range(5000))
    assert hits < 5000 * 0.04
    codes = [str(chance.randrange(4 * 10**12, 44 * 10**11)) for _ in range(2000)]
    assert sum(taken(code, "item_id")[1] for code in codes) == 0


# -- where it stands --------------------------------------------------------------------------


def test_of_an_address_of_a_page_only_the_part_goes():
    page = "https://shop.example/a?mail=jane%40example.com&card=4111+1111+1111+1111&b=1#c"
    left = "https://shop.example/a?mail=(redacted)&card=(redacted)&b=1#c"
    for name in ("page_location", "page_referrer", "link"):
        assert taken(page, name) == (left, 1)
    assert taken("/a?mail=jane@example.com", "page_location") == ("/a?mail=(redacted)", 1)
    assert taken("https://x.example/jane@example.com", "item_id") == GONE
    # The second to the fifth group would be a card, too, if the first were not one already.
    assert taken("https://x.example/4447-5054-2565-3236-3498") == (
        "https://x.example/(redacted)-3498",
        1,
    )
    two = "https://x.example/4111111111111111/5555555555554444?c=4111111111111112"
    assert taken(two) == ("https://x.example/(redacted)/(redacted)?c=4111111111111112", 1)


def test_params_of_items():
    items = [{"item_id": "A", "note": "jane@example.com"}, {"item_id": "jane@example.com"}, 3]
    cleaned, number = without_pii(given := event(items=items, p=1))
    assert (cleaned.params, number) == ({"items": [{"item_id": "A"}, {}, 3], "p": 1}, 2)
    assert items[0] == {"item_id": "A", "note": "jane@example.com"}, "the event given is shared"
    assert given.params["items"] is items


def test_user_properties_and_the_user_id():
    sender = Sender(
        client_id="1.2", user_id="jane@example.com",
        user_properties={
            "mail": {"value": "jane@example.com"}, "card": {"value": 4111111111111111},
            "site": {"value": "S", "timestamp_micros": 4111111111111111}, "bare": "a@b.de",
        },
    )  # fmt: skip
    cleaned, number = without_pii(event(sender=sender))
    assert number == 4
    assert cleaned.sender == Sender(
        client_id="1.2", user_properties={"site": sender.user_properties["site"]}
    )


@pytest.mark.parametrize("user", ["4111111111111111", "4111 1111 1111 1111", "378282246310005"])
def test_a_user_id_that_is_a_card_number_is_taken_out(user):
    given = event(sender=Sender(client_id="1.2", user_id=user), p=1)
    cleaned, number = without_pii(given)
    assert (cleaned.sender, cleaned.params, number) == (Sender(client_id="1.2"), {"p": 1}, 1)


@pytest.mark.parametrize(
    "user", ["4711", "4222222222222", "4111111111111112", "1795430000000000", "u4111111111111111"]
)
def test_a_user_id_that_is_none_stays(user):
    given = event(sender=Sender(client_id="1.2", user_id=user))
    assert without_pii(given) == (given, 0)


@pytest.mark.parametrize(
    "client", ["4111111111111111", "4111-1111-1111-1111", "4111.1111.1111.1111", "jane@example.com"]
)
def test_a_client_id_that_is_personal_cannot_be_taken_out_and_is_refused_with_the_cure(client):
    with pytest.raises(InvalidEvent, match=r"client_key.*id_salt_file.*keep_pii") as refused:
        without_pii(event(sender=Sender(client_id=client)))
    assert refused.value.field_path == "client_id"
    assert client not in str(refused.value)


@given(
    st.from_regex(r"[1-9][0-9]{0,9}\.1[0-9]{9}", fullmatch=True)
    | st.uuids().map(str)
    | st.integers(1, 2**31).map(lambda number: f"{number}.{number}")
)
def test_client_ids_as_google_and_others_make_them_stay(client):
    """Of two numbers with a dot some would be a card's, read together."""
    assert without_pii(given := event(sender=Sender(client_id=client))) == (given, 0)


def test_a_client_id_of_two_numbers_stays_even_if_together_they_are_a_card_number():
    for client in ("411111.1111111111", "4111111111.111111"):
        assert without_pii(given := event(sender=Sender(client_id=client))) == (given, 0)


def test_what_is_nested_goes_whole_however_deep():
    value = {"a": ["jane@example.com"]}
    for _ in range(100_000):
        value = [value]
    assert taken(value) == GONE
    assert taken({"a": [1, {"b": "c"}]}) == ({"a": [1, {"b": "c"}]}, 0)
    assert taken("jane@example.com", "items") == GONE


def test_an_event_without_any_comes_back_as_it_is():
    given = event(p="x", items=[{"item_id": "A"}])
    cleaned, number = without_pii(given)
    assert (cleaned is given, number) == (True, 0)


PIECES = st.sampled_from(
    ["jane", "@", "%40", "example.com", ".", " ", "-", "+", "4111", "1111", "%20", "https://", "x",
     "/", "=", "&", "_", "\t", "  ", *CARDS]
)  # fmt: skip
VALUES = st.lists(PIECES, max_size=12).map("".join) | st.integers() | st.floats() | st.text()


@given(
    st.dictionaries(st.sampled_from(["p", "item_id", "page_location", "transaction_id"]), VALUES)
)
@settings(max_examples=500, deadline=None)
def test_once_is_enough(params):
    cleaned, number = without_pii(given := event(**params))
    again, more = without_pii(cleaned)
    assert (again is cleaned, more) == (True, 0)
    assert (cleaned is given) == (number == 0)
    assert number <= len(params)


@pytest.mark.parametrize(
    "text", ["a" * 10**5 + "@", "1" * 10**5, "123 " * 25_000, "a.@" * 30_000, "%40" * 30_000,
             "4111" * 25_000 + "x", "a@" + "b." * 50_000, "4111 - " * 20_000, "411" + " " * 10**5,
             "4111%20" * 20_000 + "x", "4111./" * 20_000 + "x"]
)  # fmt: skip
def test_no_text_takes_long(text):
    """A form that backtracks would need hours for these: the test's time limit."""
    assert taken(text)[1] in (0, 1)


# -- debug_mode -------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [True, 1, "true", False, None])
def test_debug_mode_goes_whatever_it_says(value):
    cleaned, number = without_debug_mode(event(debug_mode=value, p=1))
    assert (cleaned.params, number) == ({"p": 1}, 1)


def test_an_event_without_debug_mode_comes_back_as_it_is():
    cleaned, number = without_debug_mode(given := event(p=1))
    assert (cleaned is given, number) == (True, 0)
