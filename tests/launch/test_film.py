"""Films are made from what a run's folder holds."""

from pathlib import Path

import pytest

from palaestra.agents.flow.imitation import ImitationConfig
from palaestra.launch.cli import main
from palaestra.launch.config import DemonstrationConfig, PolicyConfig, Recipe, WorldConfig
from palaestra.launch.train import train


def test_a_finished_run_is_filmed_before_and_after(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    recipe = Recipe(
        world=WorldConfig(count=4),
        policy=PolicyConfig(hidden=16, layers=1),
        demonstrations=DemonstrationConfig(episodes=2),
        imitation=ImitationConfig(steps=2),
        iterations=1,
        decisions=2,
        final_episodes=4,
        videos=1,
    )
    run = train(recipe, tmp_path / "run")
    assert main(["film", str(run)]) == 0
    films = [run / "videos" / f"0-{name}.mp4" for name in ("before", "after")]
    shown = capfd.readouterr().out
    assert all(f"video: {film}" in shown and film.stat().st_size > 1000 for film in films)


def test_a_folder_that_is_no_run_is_told_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["film", str(tmp_path)]) == 1
    assert "config.json" in capsys.readouterr().err
