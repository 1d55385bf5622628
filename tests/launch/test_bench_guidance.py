import json
from pathlib import Path

from palaestra.launch.bench import BENCHES
from palaestra.launch.benches.guidance import guidance


def test_training_goes_on_whatever_becomes_of_its_teacher(tmp_path: Path) -> None:
    """Bounds are wide, since the machine may be busy: a loop that waited for its teacher would stand still."""
    found = guidance(worlds=16, rounds=1, seconds=1.5, output=tmp_path / "result.json")
    assert json.loads((tmp_path / "result.json").read_text()) == found
    assert BENCHES["guidance"] is guidance
    for way in ("at work", "frozen", "killed"):
        assert found["asks a second"][way] > 0, way
        assert all(kept["processor"] > 0.4 for kept in found["kept"][way].values()), way
    asks = {name.removeprefix("advice/"): value for name, value in found["asks"].items()}
    ends = ("labelled", "late", "failed", "unreadable", "lost", "outstanding")
    assert asks["asked"] == sum(asks[end] for end in ends)
    assert asks["failed"] > 0  # of the killed teacher
