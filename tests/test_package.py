"""What is shipped: the wheel, its pure dependencies, the unit."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
UNIT = ROOT / "systemd/ga4-agent.service"


def run(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    place = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", place, ROOT)
    [made] = place.glob("ga4_device_agent-*-py3-none-any.whl")
    return made


def test_the_wheel_installs_into_an_empty_venv_and_runs(wheel, tmp_path):
    run(sys.executable, "-m", "venv", tmp_path / "venv")
    run(tmp_path / "venv/bin/pip", "install", "--quiet", wheel)
    config = tmp_path / "agent.toml"
    config.write_text('[stream.main]\nmeasurement_id = "G-ABCDE12345"\n')
    command = tmp_path / "venv/bin/ga4-agent"
    assert "0.1.0" in run(command, "--version", cwd=tmp_path)
    assert "is good" in run(command, "check", "--config", config, cwd=tmp_path)
    done = subprocess.run(
        [command, "status", "--config", config], cwd=tmp_path, capture_output=True, check=False,
        env=os.environ | {"STATE_DIRECTORY": str(tmp_path)},
    )  # fmt: skip
    assert b"Traceback" not in done.stderr


def test_every_runtime_dependency_is_pure_python(wheel, tmp_path):
    """One package serves armhf, arm64, amd64 and every Python from 3.11."""
    run(
        sys.executable, "-m", "pip", "download", "--quiet", "--only-binary", ":all:",
        "--implementation", "py", "--abi", "none", "--platform", "any", "--python-version", "3.11",
        "--dest", tmp_path, wheel,
    )  # fmt: skip
    names = [path.name for path in tmp_path.iterdir()]
    assert len(names) > 8
    assert [name for name in names if not name.endswith("-none-any.whl")] == []


def test_the_unit_is_clean():
    verify = shutil.which("systemd-analyze")
    if verify is None:
        pytest.skip("needs systemd-analyze: apt install systemd")
    run(verify, "verify", "--recursive-errors=yes", UNIT)


def test_every_command_has_help_and_wrong_usage_ends_with_2():
    out = run(sys.executable, "-m", "agent", "--help", cwd=ROOT)
    for command in ("run", "check", "status", "emulator", "demo"):
        assert command in out
        assert "Exit status" in run(sys.executable, "-m", "agent", command, "--help", cwd=ROOT)
    wrong = subprocess.run(
        [sys.executable, "-m", "agent", "no-such"], cwd=ROOT, capture_output=True, check=False
    )
    assert wrong.returncode == 2
