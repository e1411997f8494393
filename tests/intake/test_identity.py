"""The device's own ids: kept, bound to the machine, and made anew in a copy."""

import json
import logging
import re
import stat
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent import hardware
from agent.intake.identity import (
    FILE_NAME,
    Identity,
    NoIdentity,
    clean,
    load_identity,
    look,
    new_client_id,
    reset,
)  # fmt: skip

PI = {"board_serial": "10000000abcdef01", "machine_id": "a1" * 16}
OTHER_PI = {"board_serial": "10000000abcdef02", "machine_id": "a1" * 16}
REINSTALLED = {"board_serial": "10000000abcdef01", "machine_id": "b2" * 16}
PC = {"machine_id": "a1" * 16}
OTHER_PC = {"machine_id": "b2" * 16}
NOW = 1_764_888_982_000_000


def load(directory, facts=PI, **arguments):
    return load_identity(directory, wall_us=lambda: NOW, hardware=lambda: facts, **arguments)


def stored(directory):
    return json.loads((directory / FILE_NAME).read_bytes())


def another(directory, then, now):
    """Whether the second machine makes ids of its own; both are new then, or none."""
    before, after = load(directory, then), load(directory, now)
    assert (before.client_id == after.client_id) == (before.mqtt_client_id == after.mqtt_client_id)
    return before != after


# -- made once --------------------------------------------------------------------------------


def test_ids_are_made_once_and_the_same_ever_after(tmp_path):
    made = load(tmp_path)
    assert re.fullmatch(r"[1-9][0-9]{0,9}\.[1-9][0-9]{0,9}", made.client_id)
    assert re.fullmatch(r"ga4-agent-[0-9a-f]{12}", made.mqtt_client_id)
    assert [load(tmp_path) for _ in range(3)] == [made] * 3


def test_ids_are_random_even_where_every_clock_stands_in_1970(tmp_path):
    made = set()
    for number in range(50):
        (tmp_path / str(number)).mkdir()
        made.add(load_identity(tmp_path / str(number), wall_us=lambda: 0).client_id)
    assert len({part for client_id in made for part in client_id.split(".")}) == 100


@given(st.integers(0, 2**31 - 2))
def test_both_numbers_of_a_client_id_are_positive(number):
    assert new_client_id(lambda _: number) == f"{number + 1}.{number + 1}"


def test_nothing_of_the_machine_is_in_the_ids_or_in_the_file(tmp_path):
    load(tmp_path)
    text = (tmp_path / FILE_NAME).read_text()
    assert not any(fact in text for fact in PI.values())
    assert stat.S_IMODE((tmp_path / FILE_NAME).stat().st_mode) == 0o600


def test_two_devices_on_equal_machines_have_unequal_hashes(tmp_path):
    """Whoever has two files cannot see from the hashes that they are of one machine."""
    for name in "ab":
        (tmp_path / name).mkdir()
        load(tmp_path / name)
    first, second = stored(tmp_path / "a"), stored(tmp_path / "b")
    assert first["salt"] != second["salt"]
    assert not set(first["marks"].values()) & set(second["marks"].values())


def test_where_nothing_changed_nothing_is_written(tmp_path):
    load(tmp_path)
    before = (tmp_path / FILE_NAME).stat()
    load(tmp_path)
    assert (tmp_path / FILE_NAME).stat().st_ino == before.st_ino


# -- this machine or another ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("then", "now"),
    [
        (PI, OTHER_PI),
        (PI, {**OTHER_PI, "machine_id": "b2" * 16}),
        (PI, {"board_serial": "10000000abcdef02"}),
        (PC, OTHER_PC),
        (PI, OTHER_PC),  # of the board nothing is known now
        (PC, REINSTALLED),  # or nothing was known then
        (PI | {"product_uuid": "u1"}, PI | {"product_uuid": "u2"}),
    ],
)
def test_on_another_machine_it_makes_ids_of_its_own(tmp_path, then, now):
    assert another(tmp_path, then, now)
    assert not another(tmp_path, now, now)


@pytest.mark.parametrize(
    ("then", "now"),
    [
        (PI, REINSTALLED),
        (PI, PC),
        (PI, {}),
        (PC, PI),
        (PC, {}),
        ({}, PI),
        ({}, {}),
        (PI, {"product_uuid": "u1"}),
    ],
)
def test_what_is_no_evidence_of_another_machine_changes_nothing(tmp_path, then, now):
    assert not another(tmp_path, then, now)


def test_what_is_known_later_counts_from_then_on(tmp_path):
    assert not another(tmp_path, PC, PI)
    assert another(tmp_path, {}, OTHER_PI)


def test_what_could_not_be_read_for_a_while_still_counts(tmp_path):
    assert not another(tmp_path, PI, PC)
    assert another(tmp_path, PC, OTHER_PI)


def test_after_a_new_installation_the_new_machine_id_counts(tmp_path):
    assert not another(tmp_path, PI, REINSTALLED)
    assert not another(tmp_path, {"machine_id": "b2" * 16}, {"machine_id": "b2" * 16})
    assert another(tmp_path, REINSTALLED, PC)


def test_equal_values_of_different_facts_are_not_mixed_up(tmp_path):
    load(tmp_path, {"board_serial": "same", "machine_id": "same"})
    marks = stored(tmp_path)["marks"]
    assert marks["board_serial"] != marks["machine_id"]


def test_a_copy_says_so_in_one_line_without_ids(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    before, after = load(tmp_path, PI), load(tmp_path, OTHER_PI)
    [line] = [record.getMessage() for record in caplog.records]
    assert "another machine" in line
    assert not any(word in line for word in (*PI.values(), before.client_id, after.client_id))


def test_a_file_that_holds_only_ids_is_bound_to_the_machine_that_reads_it(tmp_path):
    ids = {"client_id": "77.88", "mqtt_client_id": "m"}
    (tmp_path / FILE_NAME).write_text(json.dumps(ids))
    assert load(tmp_path, PI) == Identity("77.88", "m")
    assert load(tmp_path, PI) == Identity("77.88", "m")
    assert load(tmp_path, OTHER_PI) != Identity("77.88", "m")


FACTS = st.dictionaries(
    st.sampled_from([hardware.BOARD_SERIAL, hardware.PRODUCT_UUID, hardware.MACHINE_ID]),
    st.sampled_from(["a", "b"]),
)


@settings(deadline=None, max_examples=50)  # it waits for the disk: a busy one is no failure
@given(then=FACTS, now=FACTS)
def test_the_same_facts_or_none_in_common_are_always_the_same_machine(tmp_path_factory, then, now):
    directory = tmp_path_factory.mktemp("state")
    common = {name for name in then.keys() & now.keys() if then[name] != now[name]}
    if not common:
        assert not another(directory, then, now)
    assert not another(directory, now, now)


# -- damage and disks -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "damage",
    [
        b"", b"{", b"\xff", b"null", b"[]", b'"text"', b"{}", b'{"client_id": "1.2"}', b"[" * 9999,
        b'{"client_id": "", "mqtt_client_id": "m"}', b'{"client_id": "x", "mqtt_client_id": "m"}',
        b'{"client_id": 1.2, "mqtt_client_id": "m"}', b'{"client_id": "1.2", "mqtt_client_id": ""}',
        b'{"client_id": "1.2", "mqtt_client_id": 5}',
        b'{"client_id": "1.2", "mqtt_client_id": "m", "salt": "no hex"}',
        b'{"client_id": "1.2", "mqtt_client_id": "m", "salt": "ab"}',
        b'{"client_id": "1.2", "mqtt_client_id": "m", "salt": 5}',
        b'{"client_id": "1.2", "mqtt_client_id": "m", "marks": []}',
        b'{"client_id": "1.2", "mqtt_client_id": "m", "since_us": "now"}',
    ],
)  # fmt: skip
def test_a_damaged_file_is_set_aside_and_new_ids_are_made(tmp_path, damage):
    (tmp_path / FILE_NAME).write_bytes(damage)
    with pytest.raises(NoIdentity, match="damaged"):
        look(tmp_path)
    made = load(tmp_path)
    assert made.client_id != "1.2"
    assert load(tmp_path) == made
    assert (tmp_path / "identity.damaged").read_bytes() == damage


def test_a_disk_that_cannot_be_written_does_not_keep_the_agent_from_running(tmp_path, caplog):
    (tmp_path / f".{FILE_NAME}.new" / "in the way").mkdir(parents=True)
    made = load(tmp_path)
    assert made.client_id
    assert not (tmp_path / FILE_NAME).exists()
    assert "cannot write" in caplog.text
    assert made.client_id not in caplog.text


def test_what_a_power_cut_left_of_writing_is_not_read(tmp_path):
    made = load(tmp_path)
    (tmp_path / f".{FILE_NAME}.new").write_bytes(b'{"client')
    assert load(tmp_path) == made
    assert reset(tmp_path, wall_us=lambda: NOW, hardware=lambda: PI) == load(tmp_path)


# -- reset, clean, look -----------------------------------------------------------------------


def test_a_reset_makes_a_new_client_id_and_leaves_the_brokers(tmp_path):
    before = load(tmp_path)
    after = reset(tmp_path, wall_us=lambda: NOW + 1, hardware=lambda: PI)
    assert after.client_id != before.client_id
    assert after.mqtt_client_id == before.mqtt_client_id
    assert load(tmp_path) == after
    assert look(tmp_path, hardware=lambda: PI).since_us == NOW + 1
    assert load(tmp_path, OTHER_PI) != after, "it is still bound to the machine"


def test_a_reset_where_nothing_was_or_damage_makes_ids(tmp_path):
    made = reset(tmp_path, wall_us=lambda: NOW, hardware=lambda: PI)
    assert load(tmp_path) == made
    (tmp_path / FILE_NAME).write_bytes(b"{")
    again = reset(tmp_path, wall_us=lambda: NOW, hardware=lambda: PI)
    assert load(tmp_path) == again != made


def test_a_reset_in_a_copy_gives_up_the_brokers_id_too(tmp_path):
    before = load(tmp_path)
    after = reset(tmp_path, wall_us=lambda: NOW, hardware=lambda: OTHER_PI)
    assert after.mqtt_client_id != before.mqtt_client_id


def test_a_reset_that_cannot_be_written_changes_nothing(tmp_path):
    before = load(tmp_path)
    (tmp_path / f".{FILE_NAME}.new" / "in the way").mkdir(parents=True)
    with pytest.raises(OSError, match="directory"):
        reset(tmp_path, wall_us=lambda: NOW, hardware=lambda: PI)
    assert load(tmp_path) == before


def test_cleaned_there_is_nothing_left_and_a_start_makes_new_ids(tmp_path):
    before = load(tmp_path)
    (tmp_path / "identity.damaged").write_bytes(b"half an id")
    assert clean(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == []
    assert not clean(tmp_path)
    assert load(tmp_path) != before


@pytest.mark.parametrize(
    ("facts", "machine"), [(PI, "this"), (OTHER_PI, "another"), ({}, "unknown"), (PC, "this")]
)
def test_a_look_says_whose_the_ids_are_and_changes_nothing(tmp_path, facts, machine):
    made = load(tmp_path)
    before = (tmp_path / FILE_NAME).read_bytes()
    seen = look(tmp_path, hardware=lambda: facts)
    assert (seen.identity, seen.since_us, seen.machine) == (made, NOW, machine)
    assert (tmp_path / FILE_NAME).read_bytes() == before


def test_a_look_at_nothing_says_where_it_looked(tmp_path):
    with pytest.raises(NoIdentity, match=re.escape(str(tmp_path / FILE_NAME))):
        look(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == []


def test_the_numbers_come_from_the_source_that_is_given(tmp_path):
    numbers = count(1)
    made = load(tmp_path, random=lambda below: next(numbers) % below)
    assert made == Identity("2.3", "ga4-agent-000000000003")
