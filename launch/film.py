"""Films of a run's policies in episodes of the evaluation."""

from __future__ import annotations

from pathlib import Path

from palaestra.envs.core import episode_seed
from palaestra.envs.record import RenderError, Single, record
from palaestra.envs.registry import source
from palaestra.launch.config import EVALUATION_SEED, AnyRecipe, VLARecipe
from palaestra.launch.train import evaluation_options, load_policy, make_worlds

BEFORE = 150
"""Steps that the policy before training is filmed for at most: a car that stands still is soon understood."""


def film(run: Path, recipe: AnyRecipe, checkpoint: str | None = None, name: str = "after") -> list[Path]:
    """Film the first episodes of the evaluation; return the videos.

    An episode in which the world broke leaves no video.

    Args:
        run: The run's folder; videos go to its `videos/`.
        recipe: The run's; `recipe.videos` says how many episodes.
        checkpoint: Whose policy; by default the newest's.
        name: What the files' names start with.

    Raises:
        RenderError: The world cannot be drawn here, with the reason and what to do.
    """
    if not recipe.videos:
        return []
    options = evaluation_options(recipe) | {"render_mode": "rgb_array"}
    try:
        made = source(recipe.world.id, **options)
        env = made.single() if made.single is not None else Single(made.vector(1)) if made.vector else None
    except (RuntimeError, ValueError, TypeError) as error:
        raise RenderError(f"{recipe.world.id} cannot be drawn here: {error}") from error
    assert env is not None, "a source makes single worlds or vectorised ones"
    try:
        worlds = make_worlds(recipe, 1)
        try:
            policy = load_policy(run, recipe, worlds.spec, checkpoint)
            limit = worlds.spec.max_steps
            if name == "before":
                limit = min(limit or BEFORE, BEFORE)
        finally:
            worlds.close()
        # Where words matter, the film shows what was asked for; its name says whose policy it is.
        caption = "" if isinstance(recipe, VLARecipe) else f"{recipe.name}, {name}"
        seeds = [episode_seed(EVALUATION_SEED, index) for index in range(recipe.videos)]
        recordings = record(env, policy, run / "videos", seeds, caption=caption, max_steps=limit)
    finally:
        env.close()
    films = []
    for place, recording in enumerate(recordings):
        if recording.path is not None:
            target = recording.path.with_name(f"{place}-{name}.mp4")
            films.append(recording.path.replace(target))
    return films
