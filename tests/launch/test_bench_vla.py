"""The bench of vision-language-action policies: reuse beats recomputation, and what is written is what was found."""

import json
from pathlib import Path

from palaestra.launch.benches.vla import vla


def test_a_reused_prefix_is_faster(tmp_path: Path) -> None:
    result = vla(batch=2, image_size=32, count=16, pixels=32, rounds=1, seconds=0.05, output=tmp_path / "bench.json")
    assert result["prefix"]["ratios"]["reused / recomputed"]["greatest"] > 1
    assert result["tables"]["rates"]["tables"] > 0 and result["tables"]["a_second_of_processor"] > 0
    assert json.loads((tmp_path / "bench.json").read_text()) == result
