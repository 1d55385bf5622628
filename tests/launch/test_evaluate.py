import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor

from palaestra.agents.core import Decision
from palaestra.envs.core import Fault, Observation, Step, WorldSpec, episode_seed
from palaestra.envs.lockstep import LockstepWorlds
from palaestra.envs.pool import PoolWorlds
from palaestra.envs.toy import ReachEnv, expert_action
from palaestra.launch.evaluate import Evaluation, evaluate, separation
from palaestra.launch.randomness import random_state
from palaestra.launch.statistics import separable, wilson


@dataclass(frozen=True)
class Script:
    """How one episode goes."""

    length: int
    """Actions until it ends."""
    success: tuple[int, ...] = ()
    """After which actions the task's verdict is true."""
    fault: int | None = None
    """The world breaks at this action; 0 is the reset."""
    truncated: bool = False
    """The end is a time limit."""


class ScriptedWorlds:
    """Rows that play scripts; each action is rewarded with its own value. All at once, or in a shuffled order."""

    def __init__(
        self, script: Callable[[int], Script], count: int, lockstep: bool = True, chunk: int = 1, success: str = "s"
    ) -> None:
        self.script, self.count = script, count
        box = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
        self.spec = WorldSpec("test/scripted", box, state=2, chunk=chunk, success=success, lockstep=lockstep)
        self.sent: dict[int, Tensor] = {}
        self.sends = [0] * count
        self.seeds: list[int] = []

    def reset(self, seed: int, group: int = 1) -> Step:
        """Start episode 0 of every row."""
        self.seed, self.order, self.sent = seed, random.Random(seed), {}
        self.episode = [-1] * self.count
        self.at, self.once, self.plan = [0] * self.count, [False] * self.count, [Script(1)] * self.count
        self.broken_starts = [0] * self.count
        for row in range(self.count):
            self._start(row)
        zeros = torch.zeros(self.count, self.spec.chunk)
        return self._step(list(range(self.count)), zeros, [0] * self.count, {}, {}, {})

    def send(self, rows: Tensor, action: Tensor | Sequence[str]) -> None:
        """Keep each row's actions until `recv`."""
        assert isinstance(action, Tensor) and len(action) == len(rows)
        assert not self.spec.lockstep or len(rows) == self.count
        for place, row in enumerate(rows.tolist()):
            assert row not in self.sent
            self.sent[row] = action[place].reshape(self.spec.chunk)
            self.sends[row] += 1

    def recv(self) -> Step:
        """Play all that was sent, or one row of it."""
        rows = sorted(self.sent) if self.spec.lockstep else [self.order.choice(sorted(self.sent))]
        rewards = torch.zeros(len(rows), self.spec.chunk)
        played, ends, finals, faults = [], {}, {}, {}
        for place, row in enumerate(rows):
            actions, plan, count = self.sent.pop(row), self.plan[row], 0
            if self.broken_starts[row]:  # reported at the row's next turn, its action unplayed
                self.broken_starts[row] -= 1
                faults[row] = "reset"
                played.append(0)
                continue
            for value in actions.tolist():
                self.at[row] += 1
                if plan.fault == self.at[row]:
                    faults[row] = "step"
                    break
                rewards[place, count] = value
                count += 1
                self.once[row] |= self.at[row] in plan.success
                if self.at[row] == plan.length:
                    ends[row] = (plan.truncated, self.at[row] in plan.success, self.once[row])
                    finals[row] = self._view(row)
                    break
            played.append(count)
            if row in ends or faults.get(row) == "step":
                self._start(row)
        return self._step(rows, rewards, played, ends, finals, faults)

    def close(self) -> None:
        """Nothing is held."""

    def _start(self, row: int) -> None:
        self.episode[row] += 1
        self.seeds.append(episode_seed(self.seed, row + self.episode[row] * self.count))
        self.plan[row] = self.script(self.seeds[-1])
        self.at[row], self.once[row] = 0, False
        if self.plan[row].fault == 0 and self.broken_starts[row] < 9:
            self.broken_starts[row] += 1
            self._start(row)

    def _view(self, row: int) -> list[float]:
        """What a row shows: its episode's number and the actions it has played."""
        return [float(self.episode[row]), float(self.at[row])]

    def _step(
        self,
        rows: list[int],
        rewards: Tensor,
        played: list[int],
        ends: dict[int, tuple[bool, bool, bool]],
        finals: dict[int, list[float]],
        faults: dict[int, str],
    ) -> Step:
        def flags(part: Callable[[int], bool]) -> Tensor:
            return torch.tensor([part(row) for row in rows])

        errors = tuple(Fault(row, "step", f"broke at {faults[row]}") if row in faults else None for row in rows)
        return Step(
            rows=torch.tensor(rows),
            observation=Observation(state=torch.tensor([self._view(row) for row in rows])),
            rewards=rewards,
            played=torch.tensor(played),
            terminated=flags(lambda row: row in ends and not ends[row][0]),
            truncated=flags(lambda row: row in ends and ends[row][0]),
            success=flags(lambda row: row in ends and ends[row][1]),
            success_once=flags(lambda row: row in ends and ends[row][2]),
            final=Observation(state=torch.tensor(list(finals.values()))) if finals else None,
            faults=errors if faults else (),
        )


class Constant:
    """A policy that always does the same."""

    def __init__(self, value: float = 1.0, chunk: int = 1) -> None:
        self.value, self.chunk = value, chunk

    def act(self, observation: Observation) -> Decision:
        """Decide."""
        return Decision(torch.full((len(observation), self.chunk, 1), self.value))


class Noise:
    """A policy that draws from torch's global generator."""

    def act(self, observation: Observation) -> Decision:
        """Decide."""
        return Decision(torch.randn(len(observation), 1, 1))


def is_long(seed: int) -> bool:
    return seed % 2 == 0


def unfair(seed: int) -> Script:
    """Half of the episodes are short and succeed, half are ten times as long and fail."""
    return Script(30, truncated=True) if is_long(seed) else Script(3, success=(3,))


def fields(evaluation: Evaluation) -> list[tuple[int, bool | None, bool | None, float, int]]:
    return [(e.seed, e.success_once, e.success_at_end, e.total, e.length) for e in evaluation.episode_list]


@pytest.mark.parametrize("lockstep", [True, False])
@pytest.mark.parametrize("count", [1, 3, 8, 40])
def test_short_episodes_are_not_counted_more_often_and_the_count_does_not_matter(count: int, lockstep: bool) -> None:
    worlds = ScriptedWorlds(unfair, count, lockstep)
    evaluation = evaluate(worlds, Constant(), 32, seed=5)
    seeds = [episode_seed(5, index) for index in range(32)]
    long = [is_long(seed) for seed in seeds]
    assert 8 < sum(long) < 24  # counting the first 32 to end would be nearly all short ones
    assert fields(evaluation) == [
        (seed, not slow, not slow, 30.0 if slow else 3.0, 30 if slow else 3)
        for seed, slow in zip(seeds, long, strict=True)
    ]
    assert evaluation.success_once == 1 - sum(long) / 32
    assert evaluation.interval_once == wilson(32 - sum(long), 32)
    assert evaluation.return_mean == evaluation.length_mean == (30 * sum(long) + 3 * (32 - sum(long))) / 32


def test_counting_whichever_episodes_end_first_would_be_biased() -> None:
    """The scripted worlds do show the bias that the quota removes."""
    worlds = ScriptedWorlds(unfair, 32)
    ended: list[bool] = []
    step = worlds.reset(5)
    while len(ended) < 32:
        worlds.send(step.rows, torch.ones(32, 1, 1))
        step = worlds.recv()
        ended += step.success[step.ended].tolist()
    assert sum(ended) / len(ended) > 0.9


def test_rows_whose_quota_is_full_are_left_idle_where_they_can_be() -> None:
    worlds = ScriptedWorlds(lambda _: Script(4), 3, lockstep=False)
    evaluate(worlds, Constant(), 7, seed=0)
    assert worlds.sends == [3 * 4, 2 * 4, 2 * 4]
    evaluate(worlds, Constant(), 1, seed=0)
    assert worlds.sends == [3 * 4 + 4, 2 * 4, 2 * 4]


def test_success_once_and_at_the_end_are_two_numbers() -> None:
    def script(seed: int) -> Script:
        return [Script(3, success=(2,)), Script(3, success=(2, 3)), Script(3)][seed % 3]

    evaluation = evaluate(ScriptedWorlds(script, 4), Constant(), 60, seed=1)
    kinds = [episode_seed(1, index) % 3 for index in range(60)]
    assert evaluation.success_once == (kinds.count(0) + kinds.count(1)) / 60
    assert evaluation.success_at_end == kinds.count(1) / 60
    assert evaluation.interval_at_end == wilson(kinds.count(1), 60)


def test_lengths_are_single_actions_and_chunks_stop_at_the_end() -> None:
    evaluation = evaluate(ScriptedWorlds(lambda _: Script(5), 2, chunk=4), Constant(0.5, chunk=4), 4, seed=1)
    assert evaluation.length_mean == 5 and evaluation.return_mean == 2.5


def test_an_end_in_the_first_steps_and_a_quota_smaller_than_the_rows() -> None:
    evaluation = evaluate(ScriptedWorlds(lambda _: Script(1, success=(1,)), 5), Constant(), 2, seed=3)
    assert [e.seed for e in evaluation.episode_list] == [episode_seed(3, 0), episode_seed(3, 1)]
    assert evaluation.success_once == 1


@pytest.mark.parametrize("lockstep", [True, False])
@pytest.mark.parametrize("when", [0, 1, 3])
@pytest.mark.parametrize("index", [0, 4, 8])
def test_a_fault_is_no_loss_and_is_made_up_for_by_the_next_start_of_its_row(
    index: int, when: int, lockstep: bool
) -> None:
    broken = episode_seed(9, index)

    def script(seed: int) -> Script:
        return Script(3, success=(3,), fault=when if seed == broken else None)

    evaluation = evaluate(ScriptedWorlds(script, 4, lockstep), Constant(), 12, seed=9)
    expected = [episode_seed(9, other) for other in range(13) if other != index]
    assert [e.seed for e in evaluation.episode_list] == expected
    assert evaluation.success_once == 1 and evaluation.return_mean == 3
    assert [lost.seed for lost in evaluation.void] == [broken]
    entry = evaluation.to_json()
    assert entry["faults"] == 1 and entry["episodes"] == 12
    assert entry["fault_list"][0]["message"] == ("broke at reset" if when == 0 else "broke at step")
    assert "1 more lost to faults" in evaluation.summary


def test_a_row_that_only_breaks_is_given_up_after_one_more_try_an_episode() -> None:
    worlds = ScriptedWorlds(lambda _: Script(3, fault=2), 2, lockstep=False)
    evaluation = evaluate(worlds, Constant(), 6, seed=9)
    assert evaluation.episode_list == () and len(evaluation.void) == 12
    assert evaluation.success_once is None and evaluation.interval_once is None and evaluation.return_mean is None
    assert "nothing to report" in evaluation.summary
    json.dumps(evaluation.to_json(), allow_nan=False)


def test_a_world_without_success_gets_no_rate() -> None:
    worlds = ScriptedWorlds(lambda _: Script(3), 2, success="")
    evaluation = evaluate(worlds, Constant(), 4, seed=0)
    assert evaluation.success_once is None and evaluation.interval_at_end is None
    assert evaluation.to_json()["episode_list"][0]["success_once"] is None
    assert "return 3" in evaluation.summary and "defines no success" in evaluation.summary
    assert "%" not in evaluation.summary and evaluation.resolution == ""
    assert separation(evaluation, evaluation) is None


def test_the_same_seed_gives_the_same_result_and_training_randomness_is_not_touched() -> None:
    torch.manual_seed(1)
    before = random_state()
    first = evaluate(ScriptedWorlds(unfair, 3), Noise(), 6, seed=2)
    assert all(torch.equal(value, before[name]) for name, value in random_state().items())
    torch.randn(5)
    assert fields(evaluate(ScriptedWorlds(unfair, 3), Noise(), 6, seed=2)) == fields(first)
    assert fields(evaluate(ScriptedWorlds(unfair, 3), Noise(), 6, seed=3)) != fields(first)


def test_gradients_are_off_and_tensors_made_meanwhile_stay_usable_in_training() -> None:
    class Caching:
        weight = torch.ones(1, requires_grad=True)
        cache: torch.Tensor | None = None

        def act(self, observation: Observation) -> Decision:
            if self.cache is None:
                self.cache = torch.ones(1)
            action = (self.weight * self.cache).expand(len(observation), 1, 1)
            assert not action.requires_grad
            return Decision(action)

    policy = Caching()
    evaluate(ScriptedWorlds(unfair, 2), policy, 2, seed=0)
    assert policy.cache is not None
    (policy.weight * policy.cache).sum().backward()
    assert policy.weight.grad == 1


def test_progress_counts_every_episode_once() -> None:
    settled: list[int] = []
    evaluate(ScriptedWorlds(lambda _: Script(3), 4), Constant(), 10, seed=0, progress=settled.append)
    assert sum(settled) == 10 and all(settled)


def test_no_episodes_is_refused() -> None:
    with pytest.raises(ValueError, match="0 episodes"):
        evaluate(ScriptedWorlds(unfair, 2), Constant(), 0, seed=0)


def test_a_count_that_cannot_separate_two_policies_is_warned_of() -> None:
    def run(share: int, seed: int, episodes: int) -> Evaluation:
        def script(start: int) -> Script:
            return Script(1, success=(1,) if start % 100 < share else ())

        return evaluate(ScriptedWorlds(script, 10), Constant(), episodes, seed)

    close = separation(run(84, 1, 50), run(88, 2, 50))
    assert close is not None and not close.separable and "cannot separate" in close.warning
    far = separation(run(20, 1, 50), run(88, 2, 50))
    assert far is not None and far.separable and far.warning == ""
    # The same episodes are compared as pairs, which tells apart what equal rates on other episodes would not.
    first, second = run(84, 1, 200), run(88, 1, 200)
    paired = separation(first, second)
    once, twice = (first.successes("success_once"), 200), (second.successes("success_once"), 200)
    assert paired is not None and paired.separable and not separable(*once, *twice)
    assert "cannot separate policies whose success differs by less than" in run(84, 1, 50).resolution


def test_the_summary_has_interval_count_seed_and_definition() -> None:
    worlds = ScriptedWorlds(lambda seed: Script(1, success=(1,)), 2, success="info['success']")
    line = evaluate(worlds, Constant(), 4, seed=7, name="after").summary
    low = 100 * wilson(4, 4)[0]
    assert line == (
        f"after: success once 100.0 % [{low:.1f}, 100.0], at the end 100.0 % [{low:.1f}, 100.0] "
        "(4 episodes of seed 7; success is info['success'])"
    )


class Balance:
    """Keeps CartPole's pole up for a while."""

    def act(self, observation: Observation) -> Decision:
        """Push towards where the pole falls."""
        assert observation.state is not None
        return Decision((observation.state[:, 2:3] > 0).long())


def alone(seed: int) -> int:
    """Return how many steps the pole stays up from a start, played by hand."""
    env, steps, over = gymnasium.make("CartPole-v1"), 0, False
    view, _ = env.reset(seed=seed)
    while not over:
        action = Balance().act(Observation(state=torch.as_tensor(view)[None])).action[0]
        view, _, terminated, truncated, _ = env.step(int(action))
        steps, over = steps + 1, terminated or truncated
    return steps


def test_rows_of_a_real_world_that_come_back_one_by_one_give_what_playing_alone_gives() -> None:
    seeds = [episode_seed(4, index) for index in range(7)]
    lengths = [alone(seed) for seed in seeds]
    assert len(set(lengths)) > 1
    worlds = PoolWorlds(partial(gymnasium.make, "CartPole-v1"), 3, id="CartPole-v1", workers=2, batch=1)
    try:
        evaluation = evaluate(worlds, Balance(), 7, seed=4)
    finally:
        worlds.close()
    assert fields(evaluation) == [(s, n >= 475, n >= 475, n, n) for s, n in zip(seeds, lengths, strict=True)]
    assert evaluation.success_definition.startswith("return so far >= 475")


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_recorded_seeds_are_those_that_episodes_started_from_even_where_the_world_would_choose(
    mode: AutoresetMode,
) -> None:
    venv = gymnasium.vector.SyncVectorEnv([lambda: gymnasium.make("CartPole-v1")] * 3, autoreset_mode=mode)
    evaluation = evaluate(LockstepWorlds(venv, id="CartPole-v1"), Balance(), 8, seed=4)
    seeds = [episode.seed for episode in evaluation.episode_list]
    assert len(set(seeds)) == 8 and seeds[:3] == [episode_seed(4, row) for row in range(3)]
    assert (seeds == [episode_seed(4, index) for index in range(8)]) == (mode is AutoresetMode.DISABLED)
    assert [episode.length for episode in evaluation.episode_list] == [alone(seed) for seed in seeds]
    assert fields(evaluate(LockstepWorlds(venv, id="CartPole-v1"), Balance(), 8, seed=4)) == fields(evaluation)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_worlds_on_a_gpu_give_what_the_cpu_gives() -> None:
    class Expert:
        def act(self, observation: Observation) -> Decision:
            assert observation.state is not None
            return Decision(expert_action(observation.state)[:, None])

    here, there = (
        evaluate(LockstepWorlds(ReachEnv(8, device=device), id="toy/reach-v0"), Expert(), 20, seed=1)
        for device in ("cpu", "cuda")
    )
    assert [e.length for e in here.episode_list] == [e.length for e in there.episode_list]
    assert here.success_once == there.success_once
