"""Mappings in the configuration: types, items, times and keys that no message could fill."""

import pytest

from agent.config import ConfigError, parse

WHERE = "mqtt.subscriptions[0]"
HEAD = """
[stream.main]
measurement_id = "G-MAIN"
[mqtt]
host = "b"
[[mqtt.subscriptions]]
topic = "vending/+machine/sale"
"""


def lines(keys):
    try:
        parse(f"{HEAD}{keys}", name="F")
    except ConfigError as error:
        return str(error).splitlines()
    return []


@pytest.mark.parametrize(
    "keys",
    [
        'event = "e"\nparams.price = "{json.cents?:div100}"',
        'event = "e"\nparams.value = "2.50"',
        'event = "e"\nparams.value = 2.5',
        'event = "battery"\nparams.level = "low"',
        'event = "e"\nparams.items = { from = "json.a", item_id = "{item.sku}", quantity = 1 }',
        'event = "e"\nparams.items = { from = "json.a?", item_id = "{item}-{machine}" }',
        'event = "e"\nparams.items = { from = "json", item_id = "{item.a.0}" }',
        'event = "e"\nparams.items = [{ item_id = "{json.a}" }, { item_id = "7", price = "3" }]',
        'event = "e"\nparams.items = "{json.items}"',
        'params.items = { from = "json.a", item_id = "{item.sku}" }',
        'time = "{json.ts?}"\nclock = "device"',
        'event = "e"\ntime = "{value}"',
        'event = "e"\nclient_key = "{value}"',
        'client_key = "{machine}"',
        'event = "e"\nparams.machine_id = 17',
    ],
)
def test_a_mapping_that_messages_can_fill_is_taken(keys):
    assert lines(keys) == []


@pytest.mark.parametrize(
    ("keys", "at", "told"),
    [
        (
            'event = "e"\nparams.a = "{json.a:flaot}"',
            "params.a",
            ("{json.a:flaot}, expected a converter that there is, "
            ":int, :float, :str, :bool, :div100; did you mean :float?"),
        ),
        (
            'event = "e"\nparams.a = "{json.a:int?}"',
            "params.a",
            "{json.a:int?}, expected the ? before the colon: {json.a?:int}",
        ),
        (
            'event = "e"\nparams.a = "{item.sku}"',
            "params.a",
            ("{item.sku}, expected a field such as {json.price}, because {item.…} is only known "
            'inside of items; items = { from = "json.ARRAY", item_id = "{item.NAME}" }'),
        ),
        (
            'event = "e"\nparams.items = [{ item_id = "{item.sku}" }]',
            "params.items[0].item_id",
            ("{item.sku}, expected a field such as {json.price}, because {item.…} is only known "
            'inside of items; items = { from = "json.ARRAY", item_id = "{item.NAME}" }'),
        ),
        (
            'event = "e"\nparams.items = { item_id = "{json.a}" }',
            "params.items",
            ('a table without from, expected from = "json.ARRAY" in it, the field with an element '
            "for each item; a single item is an array of one table: items = [{ item_id = … }]"),
        ),
        (
            'event = "e"\nparams.items = { from = "products", item_id = "{item.a}" }',
            "params.items.from",
            ("{products}, expected the field with the array, such as json.products, "
            "or json for the whole payload"),
        ),
        (
            'event = "e"\nparams.items = { from = 5, item_id = "{item.a}" }',
            "params.items.from",
            'a number, expected a field such as "json.products"',
        ),
        (
            'event = "e"\nparams.items = { from = "json.a" }',
            "params.items",
            'from alone, expected beside it item_id = "{item.NAME}"',
        ),
        (
            'event = "e"\nparams.items = [{ from = "json.a", item_id = "x" }]',
            "params.items[0]",
            ("from in an array of tables, expected one table in place of the array: "
            "items = { from = …, item_id = … }"),
        ),
        (
            f'event = "e"\nparams.items = [{", ".join(["{ item_id = 1 }"] * 201)}]',
            "params.items",
            "more tables, expected at most 200 items",
        ),
        (
            'event = "e"\nparams.items = { from = "json.a", item_id = "{itm.sku}" }',
            "params.items.item_id",
            "{itm.sku}, expected one of machine, json.…, value, topic",
        ),
        (
            'event = "{value}"\nparams.items = { from = "json.a", item_id = "{item.sku}" }',
            "params.items.item_id",
            ("{value} and {json.…} in one mapping, "
            "expected one of the two: a payload is a bare value or JSON"),
        ),
        (
            'event = "e"\nparams.value = "$19"',
            "params.value",
            ("a text that is no number, expected a number such as 2.50, "
            "with a point and without a currency's sign"),
        ),
        (
            'event = "level_up"\nparams.level = "low"',
            "params.level",
            ("a text that is no number, expected a number such as 2.50, "
            "with a point and without a currency's sign"),
        ),
        (
            'event = "e"\nparams.items = [{ item_id = "a", price = "2,50" }]',
            "params.items[0].price",
            ("a text that is no number, expected a number such as 2.50, "
            "with a point and without a currency's sign"),
        ),
        (
            'event = "e"\nparams.machine_id = 1.5',
            "params.machine_id",
            "a number, expected a text, because machine_id is an id",
        ),
        (
            'event = "e"\ntime = "2026-01-01T12:00:00Z"',
            "time",
            'the same time for all messages, expected a field of the message, such as "{json.time}"',
        ),
        ('time = "{value}"', "time", ("{value} without event, expected event beside it, because "
         "without it the payload is JSON events")),
        (
            'event = "e"\nclient_key = "marker"',
            "client_key",
            ("the same client_key for all messages, expected something of the message in it, "
            'such as "{json.card}"; client_id takes a fixed id'),
        ),
    ],
)  # fmt: skip
def test_a_mapping_that_no_message_could_go_through_is_refused(keys, at, told):
    assert lines(keys) == [f"F: {WHERE}.{at}: found {told}"]
