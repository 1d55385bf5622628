"""The bench of phones measures what it says."""

import shutil

import pytest

from palaestra.launch.benches.phone import phone


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("adb") is None, reason="adb is not installed")
def test_phones_in_this_process_are_far_faster_than_a_served_one_and_small() -> None:
    result = phone(count=16, rounds=1, seconds=0.5, output=None)
    assert result["ratios"]["calm / adb"] > 50
    assert result["cpu_rates"]["calm"] > 1000
    assert result["megabytes"] < 3
