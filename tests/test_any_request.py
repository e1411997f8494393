"""Whatever is handed in: no exception escapes, no request breaks a rule, memory stays flat.

100,000 generated payloads go from the door to the finished request in two processes of their own,
which check each of them (`tests/run_generated.py`); here it is judged what they counted. To see one
again: ``python -m tests.run_generated SEED FIRST NUMBER``. GENERATED_SEED takes another seed.
"""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from agent.ga4.repair import Kind
from tests.generated import Payload, facts, payload

pytestmark = pytest.mark.timeout(900)  # a minute on an idle machine with two processors

SEED = int(os.environ.get("GENERATED_SEED", "20260131"))
NUMBER = 100_000
HALF = NUMBER // 2
GROWTH_KB = 8 * 1024
LARGE = 10_000_000
ROOT = Path(__file__).parents[1]
CODES = (
    "VALUE_INVALID", "VALUE_REQUIRED", "NAME_INVALID", "NAME_RESERVED", "VALUE_OUT_OF_BOUNDS",
    "EXCEEDED_MAX_ENTITIES", "INTERNAL_ERROR",
)  # fmt: skip


def started(*arguments):
    command = [sys.executable, "-m", "tests.run_generated", *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def report(process):
    """What it counted. Its error names the payload that broke a promise."""
    with process:
        out, error = process.communicate()
    assert process.returncode == 0, f"seed {SEED}: {error[-6000:]}"
    return json.loads(out)


@pytest.fixture(scope="module")
def reports():
    """With a trusted clock, and with one that nobody vouches for."""
    processes = [started(SEED, first, HALF) for first in (0, HALF)]
    try:
        return [report(process) for process in processes]
    finally:
        for process in processes:
            process.kill()


@pytest.fixture(scope="module")
def counts(reports):
    return sum((Counter(each["counts"]) for each in reports), Counter())


def test_a_hundred_thousand_payloads_keep_all_promises(counts):
    assert counts["valid"] + counts["damaged"] + counts["hostile"] == NUMBER
    assert counts["stored"] == counts["carried"] + counts["withheld"]
    assert counts["easy"] > 500  # what repair can always mend, and did


def test_memory_stays_flat(reports):
    for each in reports:
        assert each["late_kb"] - each["early_kb"] < GROWTH_KB, f"seed {SEED}"


def share(counts, mode, kind, verdict):
    return counts[f"{mode} {kind} {verdict}"] / counts[f"{mode} {kind} all"]


@pytest.mark.parametrize("mode", ["repair", "strict", "off"])
def test_there_are_many_of_each_kind_in_each_mode(counts, mode):
    assert all(counts[f"{mode} {kind} all"] > 2000 for kind in ("valid", "damaged", "hostile"))
    assert share(counts, mode, "valid", "refused") == 0
    # "As it was", but for what the agent would have added to one with 25 params of its own.
    assert share(counts, mode, "valid", "as it was") > 0.9


def test_most_damaged_ones_are_repaired_or_refused(counts):
    assert share(counts, "repair", "damaged", "repaired") > 0.3
    assert 0.1 < share(counts, "repair", "damaged", "refused") < 0.6
    assert share(counts, "strict", "damaged", "refused") > 0.7
    assert share(counts, "off", "damaged", "refused") < 0.5


def test_hostile_ones_are_mostly_refused_and_not_all(counts):
    assert share(counts, "repair", "hostile", "refused") > 0.5
    assert share(counts, "repair", "hostile", "repaired") > 0.02


def test_every_kind_of_repair_and_every_code_was_met(counts):
    unmet = {kind for kind in Kind if not counts[f"repaired.{kind}"]}
    assert unmet <= {Kind.TIME_MOVED}  # parse has moved it already
    assert counts["repaired.pii_suspected"]
    assert counts["repaired.debug_mode"]
    assert counts["noted.traffic_type_left_out"]
    assert all(counts[f"code {code}"] for code in CODES)


def test_requests_carry_several_events(counts):
    assert counts["carried"] > 1.5 * counts["requests"]
    assert counts["full of bytes"] > 50
    assert counts["withheld"] > 50


def test_a_payload_is_made_of_seed_and_number_alone():
    made = [payload(SEED, number) for number in range(50)]
    assert made == [payload(SEED, number) for number in range(50)]
    assert len({each.raw for each in made}) > 45
    assert facts(Payload("valid", "body", False, b"x"))["raw"] == b"x"


def test_10_mb_texts_are_taken_apart_and_leave_nothing_behind():
    found = report(started(SEED, "large", LARGE))
    counts = Counter(found["counts"])
    assert counts["repair hostile refused"] > 10
    assert not counts["repaired.text_cut"]  # over 130,000 bytes an event is refused as it came
    assert found["slowest_s"] < 20
    assert found["peak_kb"] < 300_000
    # Of 90 payloads not one is kept; Python's own arenas come and go.
    assert (found["late_kb"] - found["early_kb"]) * 1024 < 2 * LARGE
