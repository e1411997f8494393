"""Arrows point downwards: what may import what."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "agent"
FREE = {
    "jsontext",
    "secret",
    "units",
    "bell",
    "progress",
    "sdnotify",
    "atomic_file",
    "urequests",
    "mounts",
    "routes",
    "rights",
    "topic",
    "hardware",
    "crash_point",
}

# For each part: the parts it may import, beside itself.
ALLOWED = {
    **{name: set() for name in FREE},
    "event": {"jsontext", "secret"},
    "converters": {"jsontext"},
    "template": {"jsontext", "converters"},
    "anchor": set(),
    "clock": {"event", "anchor"},
    "boots": {"event", "anchor"},
    "boot_book": {"event", "anchor", "boots", "clock"},
    "stepwise": {"atomic_file", "clock"},
    "machine": {"hardware"},
    "ownership": set(),
    "config": {"units", "secret", "template", "topic", "converters", "ga4"},
    "ga4": {"event", "jsontext", "anchor"},
    "queue": {"event", "jsontext", "crash_point", "atomic_file"},
    "intake": {
        "event", "clock", "jsontext", "secret", "ga4", "queue", "stepwise", "progress",
        "atomic_file", "units", "template", "topic", "hardware", "converters", "crash_point",
    },
    "delivery": {
        "event", "clock", "ga4", "queue", "bell", "progress", "stepwise", "urequests", "anchor",
    },
    "control": {"progress", "intake", "jsontext"},
    "recent": {"intake"},
    "worker": {"progress", "intake"},
    "crew": {"delivery", "intake", "worker"},
    "status": {"anchor", "clock", "delivery", "event", "ga4", "queue", ""},
    "doctor": {"anchor", "event", "ga4", "queue", "status", "units"},
    "boot_config": {"atomic_file", "config"},
    "upkeep": {"control", "event", "ownership", "queue", "rights"},
    "emulator": {"ga4", "jsontext"},
    "live": {"event", "ga4", "jsontext", "urequests"},
}  # fmt: skip
TOPS = {"wiring", "service", "shut", "daemon", "drain", "cli", "demo", "__main__", ""}
PURE = {"ga4", "event", "jsontext", "converters", "template", "topic", "anchor", "boots", "doctor"}
IO = {"socket", "sqlite3", "threading", "subprocess", "os", "time", "random", "pathlib", "requests"}


def part(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "agent":
            found |= {
                f"agent.{a.name}" if not a.name.startswith("__") else "agent" for a in node.names
            }
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module)
    return found


def module(path):
    relative = path.relative_to(PACKAGE).with_suffix("")
    return pytest.param(path, relative.parts[0].removesuffix("__init__"), id=str(relative))


MODULES = [module(path) for path in sorted(PACKAGE.rglob("*.py"))]


@pytest.mark.parametrize(("path", "home"), MODULES)
def test_imports_point_downwards(path, home):
    ours = {part(name) for name in imports(path) if name.split(".")[0] == "agent"}
    if home in TOPS:
        assert home in ("cli", "__main__") or "cli" not in ours, "nothing imports cli"
        return
    assert ours - {home} <= ALLOWED[home]


@pytest.mark.parametrize(("path", "home"), MODULES)
def test_what_is_pure_imports_nothing_that_does_io(path, home):
    if home in PURE:
        assert not {name.split(".")[0] for name in imports(path)} & IO


def test_intake_and_delivery_do_not_know_each_other():
    assert "delivery" not in ALLOWED["intake"]
    assert "intake" not in ALLOWED["delivery"]


def test_only_the_wiring_the_service_and_the_commands_read_the_configuration():
    readers = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if any(part(name) == "config" for name in imports(path))
    }
    readers = {name for name in readers if name.split("/")[0] not in ("cli", "config")}
    assert readers == {
        "wiring.py", "service.py", "daemon.py", "boot_config.py", "drain.py", "shut.py",
    }  # fmt: skip
