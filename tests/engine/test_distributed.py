"""The cases of several processes, in an interpreter of their own.

They fork. Where a backward pass has started autograd's threads, as some tests do, torch lets no
forked process compute gradients.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CASES = Path(__file__).with_name("distributed_cases.py")


def run_cases(which: str, at_least: int) -> None:
    words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", which, str(CASES)]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.rpartition(" passed")[0].split()[-1]) >= at_least


def test_several_processes():
    run_cases("not slow", at_least=6)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_several_processes__killed_stopped_and_of_every_kind():
    run_cases("slow", at_least=9)
