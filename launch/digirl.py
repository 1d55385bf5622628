"""A run of DigiRL: imitate an expert, play, learn from what was played, and go on playing and learning."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from palaestra.agents.digirl.episodes import Episode, read_episodes, save_episode
from palaestra.agents.digirl.learner import DigiRL
from palaestra.agents.vlm.checkpoint import read_checkpoint
from palaestra.agents.vlm.client import Client
from palaestra.agents.vlm.core import Message
from palaestra.agents.vlm.policy import Prompt, VLMPolicy, prompts_of
from palaestra.agents.vlm.sft import Tuner
from palaestra.agents.vlm.speaker import Speaker
from palaestra.agents.vlm.tiny import build_tiny_vlm
from palaestra.envs.core import Observation, Worlds
from palaestra.envs.lockstep import LockstepWorlds
from palaestra.envs.registry import make
from palaestra.launch.config import EVALUATION_SEED, DigiRLRecipe
from palaestra.launch.connect import connect_to
from palaestra.launch.evaluate import Evaluation, evaluate
from palaestra.launch.run import WorldsRun
from palaestra.launch.train import make_worlds
from palaestra.rewards.judge import Evidence, Judge, ModelJudge, NoisyJudge, StateJudge, agreement

TOGETHER = 64
"""Prompts whose features are computed at once."""
SEEDS = 1_000_003
"""Between the seeds of one round of episodes and the next."""
DEMONSTRATION_SEED = 10_000_019
"""Of the expert's first round, the same for every run."""

Act = Callable[[Observation, Sequence[int]], Sequence[str]]
"""Returns an action for each of N rows, given what they show and which they are."""


@dataclass(frozen=True, slots=True)
class Played:
    """One whole episode, as it was played."""

    observation: Observation
    """What each of T actions was chosen from."""
    actions: tuple[str, ...]
    """T of them."""
    last: Observation
    """What was seen after the last of them: one row."""
    success: bool
    """At any time."""


def play(worlds: Worlds, act: Act, seed: int) -> list[Played]:
    """Play one whole episode on each row, and return those that no fault voided.

    Rows whose episode is over are told nothing (an empty text) until the last one's is.

    Args:
        worlds: Take texts, all rows at once.
        act: Chooses.
        seed: Of the starts.
    """
    step = worlds.reset(seed)
    rows, count = step.rows, worlds.count
    seen: list[list[Observation]] = [[] for _ in range(count)]
    said: list[list[str]] = [[] for _ in range(count)]
    over: dict[int, tuple[Observation, bool]] = {}
    open_rows = list(range(count))
    while open_rows:
        index = torch.tensor(open_rows)
        view = step.observation[index].map(torch.clone)
        chosen = act(view, open_rows)
        actions = [""] * count
        for place, row in enumerate(open_rows):
            seen[row].append(view[torch.tensor([place])])
            said[row].append(chosen[place])
            actions[row] = chosen[place]
        worlds.send(rows, actions)
        step = worlds.recv()
        broken = {fault.row for fault in step.faults if fault is not None}
        ended = step.ended.nonzero().flatten().tolist()
        for place, row in enumerate(ended):
            if row in open_rows and row not in broken:
                assert step.final is not None
                over[row] = step.final[torch.tensor([place])].map(torch.clone), bool(step.success_once[row])
        open_rows = [row for row in open_rows if row not in ended and row not in broken]
    return [
        Played(Observation.concatenate(seen[row]), tuple(said[row]), *outcome) for row, outcome in sorted(over.items())
    ]


class DigiRLRun(WorldsRun):
    """Imitation of an expert, an offline stage on what the imitator did, then rounds of playing and learning."""

    recipe: DigiRLRecipe
    learner: DigiRL
    keep = 2
    client: Client | None = None

    def build(self) -> None:
        """Make phones, and an agent that has imitated the expert."""
        recipe = self.recipe
        self.worlds = make_worlds(recipe, training=True)
        self.tests = make_worlds(recipe)
        imitator = self._imitator()
        frozen = read_checkpoint(imitator, processor=imitator, adapter=None, device=recipe.world.device, dtype="auto")
        self.reader = Speaker(frozen)
        tuner, policy = _actor(recipe, imitator)
        width = 4 * frozen.model.config.get_text_config().hidden_size
        self.learner = DigiRL(tuner, policy, recipe.learner, width=width, horizon=recipe.horizon)
        self.judge = self._make_judge()
        self.episodes = list(read_episodes(self.run / "episodes"))

    def due(self) -> bool:
        """Whether a boundary follows: after the offline stage, and then every so many rounds."""
        return self.iteration == 1 or (self.iteration - 1) % self.recipe.every == 0

    def stage(self) -> str:
        """Name the end of the offline stage."""
        return "offline" if self.iteration == 1 else ""

    def restart(self) -> None:
        """Do nothing: every round starts its own episodes."""

    def evaluate(self, episodes: int, name: str) -> Evaluation:
        """Evaluate on the tasks kept for it, sampling as in training."""
        return evaluate(self.tests, self.learner.policy, episodes, EVALUATION_SEED, name)

    def iterate(self) -> dict[str, float]:
        """Play and learn: first a whole offline set, later a round of one episode a phone."""
        started, offline = time.perf_counter(), self.iteration == 0
        rounds = -(-self.recipe.offline_episodes // self.worlds.count) if offline else 1
        self.episodes = self.episodes[: self.learner.played]  # a round that was not finished is played again
        played = [
            one for number in range(rounds) for one in play(self.worlds, self._act, self._seed(number))
        ]
        simulated = time.perf_counter()
        verdicts = self._judge(played)
        for one, verdict in zip(played, verdicts, strict=True):
            if verdict is not None:
                self._keep(one, verdict)
        self.learner.played = len(self.episodes)
        metrics = self.learner.learn(self.episodes[-self.recipe.capacity :], "offline" if offline else "online")
        self.iteration += 1
        self.env_steps += sum(len(one.actions) for one in played)
        return metrics | _agreed(verdicts, played) | {
            "rollout/episodes": float(len(played)),
            "rollout/success_once": sum(one.success for one in played) / max(len(played), 1),
            "rollout/length": sum(len(one.actions) for one in played) / max(len(played), 1),
            "rollout/faults": float(rounds * self.worlds.count - len(played)),
            "time/simulate": simulated - started,
            "time/learn": time.perf_counter() - simulated,
        }

    def close(self) -> None:
        """Free the phones."""
        super().close()
        if hasattr(self, "tests"):
            self.tests.close()
        if self.client is not None:
            self.client.close()

    def _make_judge(self) -> Judge:
        config = self.recipe.judge
        if config.kind == "model":
            self.client = connect_to(config.server, config.model)
            return ModelJudge(self.client, config.model)
        if config.kind == "noisy":
            return NoisyJudge(config.false_positive, config.false_negative)
        return StateJudge()

    def _act(self, observation: Observation, rows: Sequence[int]) -> Sequence[str]:
        action = self.learner.policy.act(observation).action
        assert not isinstance(action, Tensor)
        return action

    def _seed(self, round_number: int) -> int:
        return self.start_seed() + SEEDS * round_number

    def _judge(self, played: Sequence[Played]) -> list[bool | None]:
        """Return the verdicts that are learnt from; rates are always of the truth."""
        camera = self.recipe.cameras[0]
        return self.judge.judge(
            [
                Evidence(
                    one.observation.text[0].split("\n")[0],
                    torch.stack([one.observation.images[camera][-1], one.last.images[camera][0]]),
                    one.success,
                )
                for one in played
            ]
        )

    def _keep(self, played: Played, success: bool) -> None:
        """Add an episode to those in memory and in the folder, with the features that the critics read."""
        prompts = prompts_of(played.observation, self.recipe.cameras)
        seen = self._features(prompts)
        before = torch.cat([seen[:1], seen[:-1]])  # the first frame stands for the one before it, too
        words = tuple(Message(turn.role, tuple(p for p in turn.content if isinstance(p, str))) for turn in prompts[0])
        instruction = self._features([words]).repeat(1, 2)[0]
        episode = Episode(
            played.observation, played.actions, success, torch.cat([seen, before], 1), instruction
        )
        save_episode(self.run / "episodes", len(self.episodes), episode)
        self.episodes.append(episode)

    def _features(self, prompts: Sequence[Prompt]) -> Tensor:
        parts = [self.reader.features(prompts[at : at + TOGETHER]) for at in range(0, len(prompts), TOGETHER)]
        return torch.cat(parts).cpu()

    def _imitator(self) -> Path:
        """Return the folder of a checkpoint that has imitated the expert, trained where it is not there yet."""
        folder, recipe = self.run / "imitator", self.recipe
        if folder.exists():
            return folder
        demonstrations = demonstrate(recipe)
        base = Path(recipe.base) if recipe.base else self.run / "base"
        if not base.exists():
            corpus = [text for one in demonstrations for text in (*one.observation.text, *one.actions)]
            build_tiny_vlm(
                base, seed=recipe.seed, image_size=recipe.image_size, corpus=corpus, vocabulary=recipe.vocabulary,
                phrases=True,
            )
        samples = [
            _Pair(prompt, action)
            for one in demonstrations
            for prompt, action in zip(prompts_of(one.observation, recipe.cameras), one.actions, strict=True)
        ]
        tuner = Tuner(base, recipe.imitation, device=recipe.world.device)
        for number, metrics in enumerate(tuner.fit(samples, recipe.seed), start=1):
            if number % 100 == 0:
                print(f"imitation {number}/{recipe.imitation.steps}: loss {metrics['train/loss']:.3f}", flush=True)
        tuner.save(folder)
        if not recipe.base:
            shutil.rmtree(base)
        return folder


def _actor(recipe: DigiRLRecipe, imitator: Path) -> tuple[Tuner, VLMPolicy]:
    tuner = Tuner(imitator, recipe.actor, device=recipe.world.device)
    policy = VLMPolicy(tuner.checkpoint, recipe.cameras, max_tokens=recipe.longest, temperature=recipe.temperature)
    return tuner, policy


def load_actor(run: Path, recipe: DigiRLRecipe, tensors: dict[str, Tensor]) -> VLMPolicy:
    """Return the actor that a checkpoint of a run holds."""
    tuner, policy = _actor(recipe, run / "imitator")
    prefix = "learner.actor."
    tuner.load_state_dict({key.removeprefix(prefix): v for key, v in tensors.items() if key.startswith(prefix)})
    return policy


@dataclass(frozen=True, slots=True)
class _Pair:
    """A step to imitate."""

    messages: Prompt
    answer: str


def demonstrate(recipe: DigiRLRecipe) -> list[Played]:
    """Return the scripted expert's successful episodes.

    Raises:
        ValueError: The world has no expert, or it succeeds too rarely.
    """
    world, wanted = recipe.world, recipe.demonstrations
    options: dict[str, Any] = dict(world.options) | recipe.demonstration
    with_expert = make(world.id, world.count, device=world.device, **options)
    try:
        if not isinstance(with_expert, LockstepWorlds) or not hasattr(with_expert.venv, "expert"):
            raise ValueError(f"{world.id} has no scripted expert: choose a world whose VectorEnv has `expert()`.")
        expert: Callable[[], Sequence[str]] = with_expert.venv.expert
        found: list[Played] = []
        for number in range(2 * -(-wanted // world.count)):
            episodes = play(with_expert, lambda _, rows: _some(expert(), rows), DEMONSTRATION_SEED + SEEDS * number)
            found += [one for one in episodes if one.success]
            if len(found) >= wanted:
                return found[:wanted]
    finally:
        with_expert.close()
    raise ValueError(f"the expert of {world.id} succeeded in {len(found)} episodes, {wanted} were asked for.")


def _some(actions: Sequence[str], rows: Sequence[int]) -> list[str]:
    """Return the actions of some rows."""
    return [actions[row] for row in rows]


def _agreed(verdicts: Sequence[bool | None], played: Sequence[Played]) -> dict[str, float]:
    """Return how the judge compares with the truth."""
    found = agreement(verdicts, [one.success for one in played])
    shares = {"precision": found.precision, "recall": found.recall, "accuracy": found.accuracy}
    metrics = {f"judge/{name}": share for name, share in shares.items() if share is not None}
    return metrics | {"judge/missed": float(len(played) - found.episodes)}
