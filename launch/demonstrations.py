"""Where imitation's data comes from: the world's scripted expert, a LeRobotDataset, or a ManiSkill trajectory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from palaestra.envs.episode import Episode
from palaestra.launch.config import DemonstrationConfig, WorldConfig


def demonstrations(config: DemonstrationConfig, world: WorldConfig) -> list[Episode]:
    """Return the demonstrations of a recipe.

    Raises:
        ValueError: The world has no scripted expert, or the source holds fewer episodes than asked for.
        FileNotFoundError: The source does not exist.
    """
    if config.source == "expert":
        episodes = _expert(config, world)
    else:
        path = Path(config.source)
        if not path.exists():
            raise FileNotFoundError(
                f"demonstrations.source is {config.source!r}, which does not exist: give 'expert', a LeRobotDataset "
                "folder or a trajectory.h5."
            )
        episodes = _file(path, world)
    if len(episodes) < config.episodes:
        raise ValueError(
            f"{config.source} holds {len(episodes)} demonstrations, the recipe asks for {config.episodes}."
        )
    return episodes[: config.episodes]


def _expert(config: DemonstrationConfig, world: WorldConfig) -> list[Episode]:
    family, _, task = world.id.partition("/")
    if family == "toy":
        from palaestra.envs import toy

        return toy.demonstrate(config.episodes, config.seed)
    if family == "tabletop":
        from palaestra.envs.manipulation.tabletop import world as tabletop

        options: dict[str, Any] = {**tabletop.WORLDS[world.id].keywords, **world.options}
        return tabletop.demonstrate(config.episodes, config.seed, config.noise, **options)
    if family == "maniskill":
        from palaestra.envs.manipulation import experts

        control = world.options.get("control", "pd_joint_delta_pos")
        if control != experts.CONTROL:
            raise ValueError(f"the expert of {world.id} acts in {experts.CONTROL}; world.options asks for {control}.")
        return experts.demonstrate(task, config.episodes, seed=config.seed, noise=config.noise)
    raise ValueError(
        f"{world.id} has no scripted expert: point demonstrations.source at a LeRobotDataset folder or a trajectory.h5."
    )


def _file(path: Path, world: WorldConfig) -> list[Episode]:
    if path.is_dir():
        from palaestra.envs import lerobot

        return list(lerobot.read(path))
    from palaestra.envs.manipulation import trajectories

    recording = trajectories.read(path)
    control = world.options.get("control", "pd_joint_delta_pos")
    if (f"maniskill/{recording.task}", recording.control) != (world.id, control):
        raise ValueError(
            f"{path} was recorded in {recording.task} with {recording.control} actions, but the recipe's world is "
            f"{world.id} with control={control}."
        )
    return list(recording.episodes)
