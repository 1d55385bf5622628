"""Recipes: what is refused before anything slow starts, and round trips through JSON."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from palaestra.agents.flow.pi_rl import PiRLConfig
from palaestra.launch.config import (
    AnyKind,
    PolicyConfig,
    Recipe,
    RewardConfig,
    WorldConfig,
    from_json,
    to_json,
    validate,
)
from palaestra.launch.config_conversation import ToolsRecipe
from palaestra.launch.recipes import ABOUT, RECIPES, recipe_named
from palaestra.launch.train import read_recipe


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=lambda recipe: recipe.name)
def test_every_recipe_is_valid_and_survives_json(recipe: AnyKind, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    if isinstance(recipe, ToolsRecipe):
        recipe = replace(recipe, rows=str(path), held_out=str(path))  # any file will do
    path.write_text(to_json(recipe))
    validate(recipe)
    assert read_recipe(tmp_path) == recipe and recipe_named(recipe.name).name == recipe.name and ABOUT[recipe.name]


def test_a_wrong_recipe_gets_the_nearest() -> None:
    with pytest.raises(LookupError, match="Did you mean 'pi-rl-push-cube'"):
        recipe_named("pi-rl-push-cub")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"iterations": 0}, "iterations is 0"),
        ({"world": WorldConfig(count=0)}, "world.count is 0"),
        ({"policy": PolicyConfig(horizon=2)}, "--policy.horizon 4 or more"),
        ({"policy": PolicyConfig(noise_bounds=(0.2, 0.1))}, "positive and ascending"),
        ({"pi_rl": PiRLConfig(advantage="group", group=7)}, "pi_rl.group = 7 does not divide"),
        ({"reward": RewardConfig(success=0.0)}, "nothing to maximise"),
    ],
)
def test_what_cannot_work_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        validate(replace(Recipe(), **changes))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.update(iteration=3), "unknown key 'iteration'. Did you mean 'iterations'"),
        (lambda data: data["pi_rl"].update(sampler="ode"), "sampler is 'ode'; expected one of 'sde'"),
        (lambda data: data.update(seed="one"), "seed is 'one'"),
        (lambda data: data.update(seed=True), "seed is True"),
        (lambda data: data.update(world=3), "expected an object with the fields of WorldConfig"),
    ],
)
def test_an_altered_config_is_refused_by_name(change: Any, message: str, tmp_path: Path) -> None:
    data = json.loads(to_json(Recipe()))
    change(data)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match=message):
        from_json(path)


def test_a_missing_or_broken_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds a config\.json"):
        from_json(tmp_path / "config.json")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        from_json(tmp_path / "config.json")
