"""Teachers: what an expert's drive teaches, from the recording to a model that answers."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from palaestra.agents.found_rl.lessons import clip_accuracy, context_captions, prior, record, teach_clip
from palaestra.agents.found_rl.teachers import read_pedals
from palaestra.envs.driving.describe import captions
from palaestra.envs.driving.expert import expert_action
from palaestra.envs.driving.world import DrivingEnv
from palaestra.launch.found_rl import pictures_of
from palaestra.launch.teach import TeachOptions, teach

torch.set_num_threads(1)


def small(seed: int = 3) -> DrivingEnv:
    env = DrivingEnv(8, maps="arterial", vehicles=2, walkers=0, map_count=1)
    env.reset(seed=list(range(seed, seed + 8)))
    return env


def test_pictures_are_of_the_rows_that_are_asked_about() -> None:
    env = small()
    picture = pictures_of(env, 32)
    together = picture(torch.arange(8)).clone()
    assert together.shape == (8, 32, 32, 3) and together.dtype == torch.uint8
    assert torch.equal(picture(torch.tensor([5, 2])), together[[5, 2]])
    assert len(together.flatten(1).unique(dim=0)) > 1


def test_a_drive_holds_what_the_expert_would_do_whatever_disturbed_it() -> None:
    env = small()
    drive = record(env, pictures_of(env, 32), views=50, every=5, noise=0.5, seed=1)
    assert len(drive) == 50 == len(drive.actions) == len(drive.contexts) and drive.pictures.shape == (50, 32, 32, 3)
    again = small()
    again.reset(seed=[100_003 + row for row in range(8)])
    torch.testing.assert_close(drive.actions[:8], expert_action(again))
    for lesson in drive.lessons():
        assert (read_pedals(lesson.answer) - lesson.action).abs().max() < 0.0051
        assert len(lesson.messages[0].content) == 2
    assert bool(((drive.contexts >= 0) & (drive.contexts < 24)).all())


def test_a_prior_is_the_frequency_of_behaviours() -> None:
    env = small()
    drive = record(env, pictures_of(env, 32), views=40, every=5)
    log_prior = prior(drive)
    assert log_prior.shape == (6, 4, 30)
    torch.testing.assert_close(log_prior.exp().sum(2), torch.ones(6, 4))
    context = int(drive.contexts[0])
    here = drive.contexts == context
    most = int(drive.behaviours[here].mode().values)
    count = int((drive.behaviours[here] == most).sum())
    assert log_prior.view(24, 30)[context, most].item() == pytest.approx(math.log((count + 1) / (int(here.sum()) + 30)))


def test_a_contexts_captions_are_those_of_all_720() -> None:
    assert [caption for context in range(24) for caption in context_captions(context)] == captions()


@pytest.mark.parametrize("objective", ["anchors", "pairs"])
def test_clip_learns_which_behaviour_goes_with_a_picture(objective: str, tmp_path: Path) -> None:
    pytest.importorskip("open_clip")
    from palaestra.agents.vlm.engines.clip import ClipEngine
    from palaestra.agents.vlm.tiny_clip import build_tiny_clip

    torch.manual_seed(0)
    env = small()
    drive = record(env, pictures_of(env, 32), views=48, every=10)
    build_tiny_clip(tmp_path / "clip", image_size=32, width=32, layers=1, text_width=32, context=48)
    engine = ClipEngine(tmp_path / "clip")
    losses = list(teach_clip(engine, drive, 12, batch=24, objective=objective))  # type: ignore[arg-type]
    assert sum(losses[-4:]) < sum(losses[:4])
    assert 0 <= clip_accuracy(engine, drive, prior(drive)) <= 1


def test_worlds_without_an_expert_and_full_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no expert"):
        teach(TeachOptions(tmp_path / "new", world="toy/reach-v0"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(ValueError, match="not empty"):
        teach(TeachOptions(tmp_path / "full"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["vlm", "clip"])
def test_a_teacher_from_recording_to_report(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    sizes = {"views": 64, "held_out": 8, "steps": 2, "batch": 4, "episodes": 1}
    report = teach(TeachOptions(tmp_path / "t", kind=kind, **sizes))  # type: ignore[arg-type]
    assert json.loads((tmp_path / "t" / "teacher.json").read_text()) == json.loads(json.dumps(report))
    if kind == "vlm":
        # Two steps teach nothing: such a model coasts at its start, while the expert arrives.
        driven = report["driven"]
        assert (driven["by_the_model"]["strict_success"], driven["by_the_expert"]["strict_success"]) == (0.0, 1.0)
        assert report["parse_rate"] < 0.5 and driven["by_the_model"]["episodes"] == 1
    else:
        assert report["bonus"]["expert_nothing"] <= 1 and 0 <= report["top_1_of_30"] <= 1
