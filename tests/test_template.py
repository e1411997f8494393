"""Templates: what their placeholders stand for, and what is found when they are compiled."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.template import FillError, Scope, Template, TemplateError, bare, read_array

FIELDS = {
    "price": 2.5,
    "count": 3,
    "open": True,
    "slot": "B4",
    "gone": None,
    "empty": "",
    "items": [{"price": 1.25}, [7]],
    "deep": {"er": {"still": "here"}},
    "cents": 1999,
    "digits": "12",
}
SCOPE = Scope(topic="kiosk/12/vend", wildcards={"site": "12", "rest": "a/b"}, payload=FIELDS)
NAMES = ("site", "rest")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def value(text, scope=SCOPE):
    return Template.read(text, NAMES).value(scope)


def text(text, scope=SCOPE):
    return Template.read(text, NAMES).text(scope)


def with_value(payload):
    return Scope(topic="t", wildcards={}, payload=bare(payload), said=payload)


def of_item(text, item):
    scope = Scope(topic="t", wildcards={}, payload=FIELDS, item=item)
    return Template.read(text, NAMES, of_item=True).value(scope)


# What placeholders stand for


@pytest.mark.parametrize(
    ("template", "filled"),
    [
        ("{site}", "12"),
        ("{rest}", "a/b"),
        ("{topic}", "kiosk/12/vend"),
        ("{json.price}", 2.5),
        ("{json.count}", 3),
        ("{json.open}", True),
        ("{json.slot}", "B4"),
        ("{json.empty}", ""),
        ("{json.items}", FIELDS["items"]),
        ("{json.items.0}", {"price": 1.25}),
        ("{json.items.0.price}", 1.25),
        ("{json.items.1.0}", 7),
        ("{json.deep.er.still}", "here"),
    ],
)
def test_a_placeholder_alone_keeps_the_kind_of_its_value(template, filled):
    result = value(template)
    assert result == filled
    assert type(result) is type(filled)


@pytest.mark.parametrize(
    ("template", "filled"),
    [
        ("site-{site}", "site-12"),
        ("{site}{json.slot}", "12B4"),
        ("{json.price} EUR", "2.5 EUR"),
        ("open: {json.open}", "open: true"),
        ("{json.count}x", "3x"),
        ("{{{site}}}", "{12}"),
        ("{{site}}", "{site}"),
        ("}}{{", "}{"),
        ("", ""),
    ],
)
def test_inside_other_text_a_value_is_written_as_json_writes_it(template, filled):
    assert value(template) == filled


@pytest.mark.parametrize(
    ("payload", "filled"),
    [
        ("21.5", 21.5),
        (" 3 ", 3),
        ("true", True),
        ("false", False),
        ("ON", "ON"),
        ("", ""),
        ("null", "null"),
        ('"ON"', '"ON"'),
        ("[1]", "[1]"),
        ('{"a":1}', '{"a":1}'),
        ("NaN", "NaN"),
        ("1e999", "1e999"),
        ("007", "007"),
        ("9" * 5000, "9" * 5000),
        ("[" * 100_000, "[" * 100_000),
    ],
)
def test_a_bare_payload_is_a_number_a_truth_or_a_text(payload, filled):
    result = Template.read("{value}").value(with_value(payload))
    assert result == filled
    assert type(result) is type(filled)


@pytest.mark.parametrize(
    "template", ["{json.gone?}", "{json.none?}", "{json.slot.x?}", "a{json.none?}"]
)
def test_a_field_that_may_be_missing_leaves_the_whole_out(template):
    assert value(template) is None
    assert text(template) is None


@pytest.mark.parametrize(
    "template",
    ["{json.gone}", "{json.none}", "{json.slot.x}", "{json.items.2}", "{json.items.00}",
     "{json.items.-1}", "{json.items.999999999999}", "{json.items.price}", "a{json.none}"],
)  # fmt: skip
def test_a_field_that_is_missing_cannot_be_passed_over(template):
    with pytest.raises(FillError, match=r"found nothing at json.*expected a value") as refused:
        value(template)
    assert refused.value.missing


@pytest.mark.parametrize(
    ("template", "found"),
    [
        ("x{json.items}", "an array at json.items"),
        ("x{json.deep}", "an object at json.deep"),
    ],
)
def test_an_object_or_array_does_not_fit_into_a_text(template, found):
    for fill in (value, text):
        with pytest.raises(FillError, match=f"found {found}, expected a text") as refused:
            fill(template)
        assert not refused.value.missing


@pytest.mark.parametrize(
    ("template", "filled"),
    [
        ("{json.cents:div100}", 19.99),
        ("{json.digits:int}", 12),
        ("{json.count:str}", "3"),
        ("{json.open:str}", "true"),
        ("{json.count:float}", 3.0),
        ("{site:int}", 12),
        ("{json.none?:div100}", None),
        ("{json.gone?:int}", None),
        ("{json.cents:div100} EUR", "19.99 EUR"),
        ("at {json.a:b:str}", "at c"),
    ],
)
def test_a_converter_is_used_on_what_the_placeholder_finds(template, filled):
    scope = Scope(topic="t", wildcards={"site": "12"}, payload={**FIELDS, "a:b": "c"})
    result = value(template, scope)
    assert result == filled
    assert type(result) is type(filled)


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("{json.slot:int}", "found a text that is no number at json.slot, expected a whole number"),
        ("{json.price:int}", "found a number with a fraction at json.price, expected a whole"),
        ("{json.none:int}", "found nothing at json.none, expected a value, or {json.none?:int} in"),
        ("{topic:bool}", "found another text at topic, expected true or false"),
    ],
)
def test_what_cannot_be_converted_is_told_with_its_place(template, told):
    with pytest.raises(FillError) as refused:
        value(template)
    assert str(refused.value).startswith(told)


@pytest.mark.parametrize(
    ("payload", "converter", "filled"),
    [("2.50", "str", "2.50"), ("2.50", "float", 2.5), ("007", "int", 7), ("1", "bool", True)],
)
def test_a_bare_payload_is_converted_from_its_very_letters(payload, converter, filled):
    result = Template.read(f"{{value:{converter}}}").value(with_value(payload))
    assert result == filled
    assert type(result) is type(filled)


@pytest.mark.parametrize("payload", ["007", "2.50", "1e5", "ON", "true", "4711", "00", "1.0"])
def test_where_a_text_is_needed_a_bare_payload_keeps_every_letter(payload):
    assert Template.read("{value}").text(with_value(payload)) == payload
    assert Template.read("n-{value}").text(with_value(f" {payload}")) in (
        f"n-{payload}", f"n- {payload}",
    )  # fmt: skip
    assert Template.read("{value} EUR").value(with_value(payload)) == f"{payload} EUR"


# Elements that become items


@pytest.mark.parametrize(
    ("template", "item", "filled"),
    [
        ("{item.sku}", {"sku": "007"}, "007"),
        ("{item.a.0}", {"a": [7]}, 7),
        ("{item}", "B4", "B4"),
        ("{item.cents:div100}", {"cents": 250}, 2.5),
        ("{item.n?}", {}, None),
        ("{item.sku}-{json.slot}", {"sku": 1}, "1-B4"),
    ],
)
def test_fields_of_an_element_are_read_beside_those_of_the_payload(template, item, filled):
    assert of_item(template, item) == filled


@pytest.mark.parametrize("item", [{}, None, "x", [1], {"sku": None}])
def test_a_field_that_an_element_lacks_is_told_as_its_own(item):
    with pytest.raises(FillError, match=r"found nothing at item\.sku, expected a value"):
        of_item("{item.sku}", item)


@pytest.mark.parametrize(
    ("text", "path", "optional"),
    [
        ("json.products", ("products",), False),
        ("{json.products}", ("products",), False),
        ("json.a.0.b?", ("a", "0", "b"), True),
        ("json", (), False),
    ],
)
def test_the_array_of_the_items_is_a_field_with_or_without_braces(text, path, optional):
    found = read_array(text)
    assert (found.reads, found.path, found.optional) == ("json", path, optional)


@pytest.mark.parametrize(
    "text", ["products", "", "{value}", "json.", "item.a", "{site}", "json..a"]
)
def test_what_names_no_field_cannot_be_the_array_of_items(text):
    with pytest.raises(TemplateError, match=r"expected the field with the array, such as json\."):
        read_array(text)


# Where a name or an id is needed


@pytest.mark.parametrize(
    ("template", "filled"),
    [
        ("{json.slot}", "B4"),
        ("{json.count}", "3"),
        ("n{json.count}", "n3"),
        ("lamp_{json.open}", "lamp_true"),
        ("vend", "vend"),
    ],
)
def test_a_whole_number_is_its_digits_where_a_text_is_needed(template, filled):
    assert text(template) == filled


@pytest.mark.parametrize(
    ("template", "found"),
    [
        ("{json.price}", "a number with a fraction"),
        ("id-{json.price}", "a number with a fraction"),
        ("{json.open}", "true or false"),
        ("{json.items}", "an array"),
        ("{json.deep}", "an object"),
    ],
)
def test_what_may_have_lost_digits_is_no_id(template, found):
    with pytest.raises(FillError, match=f"found {found} at json.*, expected a text"):
        text(template)


# What is found when it is compiled


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            "{sote}",
            "found {sote}, expected one of site, rest, json.…, value, topic; did you mean site?",
        ),
        ("{valeu}", "found {valeu}, expected one of site, rest, json.…, value, topic; did you mean value?"),
        ("{}", "found {}, expected one of site, rest, json.…, value, topic"),
        ("{ site }", "found { site }, expected one of site, rest, json.…, value, topic; did you mean site?"),
        ("{site.x}", "found {site.x}, expected one of site, rest, json.…, value, topic; did you mean site?"),
        ("{json}", "found {json}, expected a field such as {json.price} or {json.items.0.price}"),
        ("{json.}", "found {json.}, expected a field such as {json.price} or {json.items.0.price}"),
        ("{json.a..b}", "found {json.a..b}, expected a field such as {json.price} or {json.items.0.price}"),
        ("{site?}", "found {site?}, expected {site}: only a field can be missing"),
        ("{value?}", "found {value?}, expected {value}: only a field can be missing"),
        ("{json.a:flot}", "found {json.a:flot}, expected a converter that there is, :int, :float, :str, :bool, :div100; did you mean :float?"),
        ("{json.a:}", "found {json.a:}, expected a converter that there is, :int, :float, :str, :bool, :div100"),
        ("{json.a:FLOAT}", "found {json.a:FLOAT}, expected a converter that there is, :int, :float, :str, :bool, :div100; did you mean :float?"),
        ("{json.a:float?}", "found {json.a:float?}, expected the ? before the colon: {json.a?:float}"),
        ("{site?:int}", "found {site?:int}, expected {site}: only a field can be missing"),
        ("{item.sku}", 'found {item.sku}, expected a field such as {json.price}, because {item.…} is only known inside of items; items = { from = "json.ARRAY", item_id = "{item.NAME}" }'),
        ("a{site", "found { without }, expected a placeholder such as {json.NAME}, or {{ for a brace"),
        ("site}", "found } without {, expected a placeholder such as {json.NAME}, or }} for a brace"),
    ],
)  # fmt: skip
def test_a_text_that_is_no_template_says_what_would_do(template, message):
    with pytest.raises(TemplateError) as refused:
        Template.read(template, NAMES)
    assert str(refused.value) == message


def test_where_the_topic_is_not_known_any_name_may_be_one_of_it():
    assert Template.read("{anything}", None).placeholders[0].path == ("anything",)
    with pytest.raises(TemplateError):
        Template.read("{not a name}", None)


def test_a_constant_is_a_template_without_placeholders():
    assert Template.read("a{{b}}").constant == "a{b}"
    assert Template.read("a{topic}").constant is None


# Algebra


@given(plain=st.text())
def test_a_template_without_placeholders_yields_itself(plain):
    template = Template.read(plain.replace("{", "{{").replace("}", "}}"))
    assert template.value(SCOPE) == template.text(SCOPE) == template.constant == plain


@given(document=st.dictionaries(st.sampled_from("abc"), JSON))
def test_a_placeholder_alone_is_the_very_field(document):
    scope = Scope(topic="t", wildcards={}, payload=document)
    for key, field in document.items():
        found = Template.read(f"{{json.{key}?}}").value(scope)
        assert json.dumps(found) == json.dumps(field)


@given(payload=st.text())
def test_a_bare_value_is_never_more_or_less_than_was_said(payload):
    result = bare(payload)
    if isinstance(result, str):
        assert result == payload
    else:
        assert json.loads(payload) == result
        assert math.isfinite(result)


@given(template=st.text(alphabet="{}?.:abjsonvlueitmr0", max_size=24), document=JSON)
def test_any_text_compiles_and_fills_or_says_why_not(template, document):
    scope = Scope(topic="t", wildcards={"a": "A"}, payload=document, item=document)
    try:
        compiled = Template.read(template, ["a"], of_item=True)
        filled = compiled.value(scope)
        compiled.text(scope)
    except (TemplateError, FillError) as error:
        told = str(error)
    else:
        assert filled is not None or any(each.optional for each in compiled.placeholders)
        return
    assert told.startswith("found ")


@given(document=st.dictionaries(st.just("id"), JSON, min_size=1))
def test_no_message_repeats_what_was_in_the_payload(document):
    secret = "visitor-4711"
    scope = Scope(topic="t", wildcards={}, payload={"id": [secret, document], "x": {secret: 1.5}})
    for template in ("{json.id}", "a{json.id}", "{json.x}", "{json.x.y}", "{json.id:int}"):
        with pytest.raises(FillError) as refused:
            Template.read(template).text(scope)
        assert secret not in str(refused.value)
