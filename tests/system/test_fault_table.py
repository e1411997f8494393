"""The table of faults that other agents lose events to, for ours."""

import subprocess
import sys

import pytest

from tests.acceptance.daemon import ROOT


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_ours_loses_nothing_where_others_do():
    command = [sys.executable, str(ROOT / "bench/faults.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout)  # with -s, or when it fails
