from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space
from scripted_worlds import Scripted
from torch import Tensor

from palaestra.envs.core import Fault, Observation, Step, episode_seed, same_tensors
from palaestra.envs.lockstep import LockstepWorlds
from palaestra.envs.spaces import batched, describe
from palaestra.envs.toy import ReachEnv, expert_action

SEED, COUNT = 7, 4
Report = dict[str, Any]


class SelfSeeded(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Starts episode e of its row from `episode_seed`, also where it is reset without a seed."""

    def __init__(self, script: Scripted, row: int, count: int = COUNT) -> None:
        super().__init__(script())
        self.row, self.count, self.episode = row, count, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.episode = self.episode + 1 if seed is None else 0
        number = episode_seed(SEED, self.row + self.episode * self.count) if seed is None else seed
        return self.env.reset(seed=number)


def sync(script: Scripted, mode: AutoresetMode, **options: Any) -> SyncVectorEnv:
    return SyncVectorEnv([partial(SelfSeeded, script, row) for row in range(COUNT)], autoreset_mode=mode, **options)


def lockstep(script: Scripted, mode: AutoresetMode = AutoresetMode.DISABLED, chunk: int = 1) -> LockstepWorlds:
    return LockstepWorlds(sync(script, mode), id="scripted", chunk=chunk)


def action_of(row: int, turn: int, chunk: int, takes: str) -> Tensor:
    """What this file's agent does in a row at its n-th turn, [C, …]."""
    numbers = torch.Generator().manual_seed(1000 * row + turn)
    if takes == "discrete":
        return torch.randint(-1, 2, (chunk,), generator=numbers)
    return torch.rand(chunk, 2, generator=numbers) * 2 - 1


def play(worlds: LockstepWorlds, turns: int, takes: str = "box") -> tuple[dict[int, list[Report]], list[Step]]:
    """Play until every row has had so many turns; return each row's reports, and the steps as they came."""
    step = worlds.reset(SEED)
    steps, reports, turn = [step], defaultdict(list), defaultdict(int)
    while min(turn[row] for row in range(COUNT)) < turns:
        rows = step.rows.tolist()
        chosen = [action_of(row, turn[row], worlds.spec.chunk, takes) for row in rows]
        worlds.send(step.rows, torch.stack(chosen))
        for row in rows:
            turn[row] += 1
        step = worlds.recv()
        steps.append(step)
        for row, report in split(step).items():
            reports[row].append(report)
    return {row: reports[row][:turns] for row in range(COUNT)}, steps


def split(step: Step) -> dict[int, Report]:
    """Return each row's part of a step."""
    ended = step.rows[step.ended].tolist()
    result = {}
    for index, row in enumerate(step.rows.tolist()):
        at = torch.tensor([index])
        final = step.final[torch.tensor([ended.index(row)])] if row in ended and step.final is not None else None
        result[row] = {
            "observation": step.observation[at],
            "rewards": step.rewards[at],
            "played": int(step.played[index]),
            "ends": (bool(step.terminated[index]), bool(step.truncated[index])),
            "success": (bool(step.success[index]), bool(step.success_once[index])),
            "final": final,
            "fault": step.faults[index] if step.faults else None,
        }
    return result


def by_hand(script: Scripted, row: int, turns: int, chunk: int, takes: str) -> list[Report]:
    """Return what the contract says a row of single worlds reports, with no adapter at all."""
    env = script()
    layout = describe(env.observation_space)

    def view(observation: Any) -> Observation:
        if isinstance(observation, dict):
            observation = {
                key: [part] if isinstance(part, str) else np.asarray(part)[None] for key, part in observation.items()
            }
        else:
            observation = np.asarray(observation)[None]
        return batched(layout, observation)

    reports, episode, once = [], 0, False
    env.reset(seed=episode_seed(SEED, row))
    for turn in range(turns):
        rewards, played, final = torch.zeros(1, chunk), 0, None
        for action in action_of(row, turn, chunk, takes):
            shown, reward, terminated, truncated, info = env.step(action.numpy())
            rewards[0, played] = reward
            played += 1
            success = info["success"]
            once |= success
            if terminated or truncated:
                final = view(shown)
                episode += 1
                shown, _ = env.reset(seed=episode_seed(SEED, row + episode * COUNT))
                break
        reports.append(
            {
                "observation": view(shown),
                "rewards": rewards,
                "played": played,
                "ends": (terminated, truncated),
                "success": (success, once),
                "final": final,
                "fault": None,
            }
        )
        once = once and final is None
    return reports


def assert_same(left: Report, right: Report) -> None:
    for name in left:
        assert same_tensors(left[name], right[name]), (name, left[name], right[name])


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize(("shows", "takes"), [("vector", "box"), ("dict", "box"), ("image", "discrete")])
def test_every_mode_reports_what_single_worlds_played_by_hand_report(
    mode: AutoresetMode, shows: str, takes: str
) -> None:
    script = Scripted(shows, takes)
    reports, _ = play(lockstep(script, mode), 30, takes)
    for row in range(COUNT):
        expected = by_hand(script, row, 30, 1, takes)
        assert sum(any(report["ends"]) for report in expected) >= 3
        for turn in range(30):
            assert_same(reports[row][turn], expected[turn])


@pytest.mark.parametrize("chunk", [1, 3, 20])
@pytest.mark.parametrize("shows", ["vector", "dict"])
def test_chunks_stop_at_their_episodes_ends(chunk: int, shows: str) -> None:
    script = Scripted(shows)
    reports, _ = play(lockstep(script, chunk=chunk), 12, "box")
    for row in range(COUNT):
        expected = by_hand(script, row, 12, chunk, "box")
        assert chunk == 1 or any(report["played"] < chunk for report in expected)
        for turn in range(12):
            assert_same(reports[row][turn], expected[turn])
            played = expected[turn]["played"]
            assert reports[row][turn]["rewards"][0, played:].eq(0).all()


def test_next_step_mode_returns_the_other_rows_first_and_all_rows_in_order() -> None:
    _, steps = play(lockstep(Scripted(), AutoresetMode.NEXT_STEP), 20)
    sizes = {len(step.rows) for step in steps}
    assert COUNT in sizes and len(sizes) > 1
    for step in steps:
        assert step.rows.tolist() == sorted(set(step.rows.tolist()))


def test_next_step_mode_steps_at_once_when_all_rows_have_ended() -> None:
    worlds = lockstep(Scripted(length=3), AutoresetMode.NEXT_STEP)
    reports, steps = play(worlds, 6)
    assert all(len(step.rows) == COUNT for step in steps)
    assert [any(report["ends"]) for report in reports[0]] == [False, False, True, False, False, True]


def test_final_is_there_for_ended_rows_alone_and_is_not_the_next_first_view() -> None:
    for mode in AutoresetMode:
        _, steps = play(lockstep(Scripted(), mode), 20)
        for step in steps:
            assert (step.final is None) == (not step.ended.any())
            if step.final is not None and step.final.state is not None and step.observation.state is not None:
                assert len(step.final) == int(step.ended.sum())
                assert (step.final.state != step.observation.state[step.ended]).any(1).all()


def test_what_was_returned_never_changes_even_where_the_world_reuses_its_arrays() -> None:
    worlds = LockstepWorlds(sync(Scripted("dict"), AutoresetMode.DISABLED, copy=False), id="scripted", chunk=2)
    _, steps = play(worlds, 10)
    again, _ = play(lockstep(Scripted("dict"), chunk=2), 10)
    for row in range(COUNT):
        kept = [split(step)[row] for step in steps[1:11]]
        for left, right in zip(kept, again[row], strict=True):
            assert_same(left, right)


def test_groups_of_rows_start_alike() -> None:
    worlds = LockstepWorlds(ReachEnv(6), id="toy/reach-v0")
    state = worlds.reset(seed=3, group=3).observation.state
    assert state is not None
    alone = LockstepWorlds(ReachEnv(2), id="toy/reach-v0").reset(seed=3).observation.state
    assert alone is not None
    assert torch.equal(state, alone.repeat_interleave(3, 0))
    with pytest.raises(ValueError, match="group is 4, but must divide the 6 rows"):
        worlds.reset(seed=3, group=4)


def test_expert_solves_the_toy_world_and_every_episode_starts_from_its_promised_seed() -> None:
    worlds = LockstepWorlds(ReachEnv(5), id="toy/reach-v0", chunk=2)
    assert worlds.spec.max_steps == 32 and worlds.spec.success == "info['success']" and worlds.spec.lockstep
    step = worlds.reset(seed=SEED)
    starts: dict[int, list[Tensor]] = {row: [] for row in range(5)}
    wins = 0
    for _ in range(40):
        assert step.observation.state is not None
        worlds.send(step.rows, expert_action(step.observation.state)[:, None].expand(5, 2, 2))
        step = worlds.recv()
        for row in step.rows[step.ended].tolist():
            assert step.observation.state is not None
            starts[row].append(step.observation.state[row])
        assert torch.equal(step.success[step.ended], step.terminated[step.ended])
        wins += int(step.success_once[step.ended].sum())
    assert wins >= 15
    for row, views in starts.items():
        for index, view in enumerate(views):
            expected, _ = ReachEnv(1).reset(seed=[episode_seed(SEED, row + (index + 1) * 5)])
            assert torch.equal(view, expected[0])


# Worlds that break.


def seeds(*row_and_episode: tuple[int, int]) -> list[int]:
    return [episode_seed(SEED, row + episode * COUNT) for row, episode in row_and_episode]


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize(("what", "boundary"), [("nan", "observation"), ("reward", "reward")])
def test_a_value_that_is_not_finite_voids_that_row_s_episode_alone(
    mode: AutoresetMode, what: str, boundary: str
) -> None:
    (broken,) = seeds((1, 1))
    script = Scripted(length=5, faults={broken: (what, 2)})
    reports, steps = play(lockstep(script, mode), 16)
    whole, _ = play(lockstep(Scripted(length=5), mode), 16)
    for row in (0, 2, 3):
        for left, right in zip(reports[row], whole[row], strict=True):
            assert_same(left, right)
    faults = [(turn, report) for turn, report in enumerate(reports[1]) if report["fault"] is not None]
    ((turn, report),) = faults
    assert turn == 6  # episode 1 begins at turn 5 and breaks in its second step
    assert report["fault"].row == 1 and report["fault"].boundary == boundary
    assert "expected a finite number" in report["fault"].message or "holds nan at index 1" in report["fault"].message
    assert report["ends"] == (False, False) and report["final"] is None
    # The next episode's first view is shown, and that episode is whole.
    assert [any(later["ends"]) for later in reports[1][7:12]] == [False] * 4 + [True]
    if mode is AutoresetMode.DISABLED:
        assert_same({"observation": report["observation"]}, {"observation": whole[1][9]["observation"]})
    for step in steps:
        assert step.observation.state is not None and torch.isfinite(step.observation.state).all()
        assert torch.isfinite(step.rewards).all()


def test_a_broken_last_view_voids_the_episode_in_every_mode() -> None:
    (broken,) = seeds((2, 0))
    for mode in AutoresetMode:
        reports, _ = play(lockstep(Scripted(length=3, faults={broken: ("nan", 3)}), mode), 4)
        fault = reports[2][2]["fault"]
        assert isinstance(fault, Fault) and fault.boundary == "observation"
        assert reports[2][2]["ends"] == (False, False) and reports[2][2]["final"] is None
        assert any(reports[1][2]["ends"])


def test_a_broken_first_view_is_a_fault_of_its_own_and_the_episode_before_stays_good() -> None:
    broken = seeds((1, 1), (1, 2), (3, 0))
    script = Scripted(length=4, faults={seed: ("nan", 0) for seed in broken})
    reports, _ = play(lockstep(script), 10)
    whole, _ = play(lockstep(Scripted(length=4)), 20)
    assert any(reports[1][3]["ends"]) and reports[1][3]["fault"] is None
    for turn in (4, 5):  # two episodes broke before they began: two faults, nothing played, the same view
        assert reports[1][turn]["fault"].boundary == "observation"
        assert reports[1][turn]["played"] == 0
        assert_same({"observation": reports[1][turn]["observation"]}, {"observation": reports[1][3]["observation"]})
    assert_same({"observation": reports[1][3]["observation"]}, {"observation": whole[1][11]["observation"]})
    assert any(reports[1][9]["ends"]) and reports[1][9]["played"] == 1
    assert reports[3][0]["fault"] is not None and reports[3][0]["played"] == 0


def test_a_world_that_never_starts_stops_the_program_and_says_which_row() -> None:
    script = Scripted(faults={seed: ("nan", 0) for seed in seeds(*((2, episode) for episode in range(4)))})
    with pytest.raises(RuntimeError, match=r"scripted: row 2 does not start: .*holds nan at index 1"):
        lockstep(script).reset(SEED)


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
def test_a_broken_first_view_that_only_the_world_can_reset_is_played_unseen_with_a_warning(
    mode: AutoresetMode,
) -> None:
    (broken,) = seeds((1, 1))
    with pytest.warns(UserWarning, match=r"first views of rows \[1\] are not finite"):
        reports, _ = play(lockstep(Scripted(length=4, faults={broken: ("nan", 0)}), mode), 8)
    assert [any(report["ends"]) for report in reports[1]] == [False] * 3 + [True] + [False] * 3 + [True]


# Worlds that lie, and worlds of other makes.


class TorchVectorEnv(VectorEnv[Any, Any, Any]):
    """Counts to a row's number of steps, and says how it ended the way ManiSkill's vector environment does."""

    def __init__(self, metadata: dict[str, Any], **changes: Callable[[Any], Any]) -> None:
        self.metadata, self.changes = metadata, changes
        self.num_envs = 3
        self.single_observation_space = spaces.Dict({"clock": spaces.Box(-100, 100, (2,), np.float32)})
        self.single_action_space = spaces.Box(-1, 1, (1,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, 3)
        self.action_space = batch_space(self.single_action_space, 3)

    def _show(self) -> dict[str, Tensor]:
        return {"clock": torch.stack((self.time, self.episode), 1).float()}

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        assert len(seed) == 3
        self.time, self.episode = torch.zeros(2, 3, dtype=torch.int64)
        return self._show(), {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        assert isinstance(actions, Tensor) and actions.shape == (3, 1)
        self.time = self.time + 1
        done = self.time >= torch.tensor([2, 3, 4])
        info: dict[str, Any] = {"success": self.time == 2}
        reward = self.time.float()
        if done.any():
            info = {"final_info": info, "final_observation": self._show(), "_final_info": done}
            self.episode = self.episode + done
            self.time = self.time.masked_fill(done, 0)
        values = {"obs": self._show(), "reward": reward, "terminated": done, "truncated": ~done & False, "info": info}
        for name, change in self.changes.items():
            values[name] = change(values[name])
        return tuple(values.values())  # type: ignore[return-value]


SAME_STEP = {"autoreset_mode": AutoresetMode.SAME_STEP}


def test_torch_world_that_tells_its_ends_as_maniskill_does() -> None:
    worlds = LockstepWorlds(TorchVectorEnv(SAME_STEP), id="torch")
    assert worlds.spec.success == "info['success']"
    step, seen = worlds.reset(0), []
    for _ in range(4):
        worlds.send(step.rows, torch.zeros(3, 1, 1))
        step = worlds.recv()
        assert step.observation.state is not None
        final = None if step.final is None or step.final.state is None else step.final.state.tolist()
        seen.append(
            (
                step.observation.state.tolist(),
                step.terminated.tolist(),
                step.success.tolist(),
                step.success_once.tolist(),
                final,
            )
        )
    no, yes = False, True
    assert seen == [
        ([[1, 0], [1, 0], [1, 0]], [no, no, no], [no, no, no], [no, no, no], None),
        ([[0, 1], [2, 0], [2, 0]], [yes, no, no], [yes, yes, yes], [yes, yes, yes], [[2, 0]]),
        ([[1, 1], [0, 1], [3, 0]], [no, yes, no], [no, no, no], [no, yes, yes], [[3, 0]]),
        ([[0, 2], [1, 1], [0, 1]], [yes, no, yes], [yes, no, no], [yes, no, yes], [[2, 1], [4, 0]]),
    ]


@pytest.mark.parametrize("said", ["SameStep", "SAME_STEP", AutoresetMode.SAME_STEP])
def test_mode_may_be_said_by_name(said: Any) -> None:
    LockstepWorlds(TorchVectorEnv({"autoreset_mode": said}), id="torch")


@pytest.mark.parametrize("metadata", [{}, {"autoreset_mode": "always"}, {"autoreset_mode": None}])
def test_a_world_that_does_not_say_how_it_resets_is_refused(metadata: dict[str, Any]) -> None:
    with pytest.raises(
        ValueError, match=r"metadata\['autoreset_mode'\] of TorchVectorEnv is .*AutoresetMode\.DISABLED"
    ):
        LockstepWorlds(TorchVectorEnv(metadata), id="torch")


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
def test_chunks_need_a_world_that_leaves_resets_to_the_adapter(mode: AutoresetMode) -> None:
    with pytest.raises(ValueError, match=rf"chunk is 2, but autoreset mode is {mode.name}.*DISABLED.*chunk=1"):
        lockstep(Scripted(), mode, chunk=2)
    with pytest.raises(ValueError, match="chunk is 0"):
        lockstep(Scripted(), mode, chunk=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"obs": lambda view: {"clock": view["clock"][:, :1]}},
            r"'clock' of 3 worlds has shape \(3, 1\).*declares \(3, 2\)",
        ),
        ({"obs": lambda view: {"watch": view["clock"]}}, r"lacks key 'clock': found \['watch'\]"),
        ({"reward": lambda reward: reward[:, None]}, r"reward has shape \[3, 1\], expected .*\[3\]"),
        ({"terminated": lambda done: done[:2]}, r"terminated has shape \[2\]"),
        ({"info": lambda info: {"success": torch.ones(2)}}, r"info\['success'\] has shape \[2\]"),
    ],
)
def test_a_world_whose_values_are_not_what_its_spaces_declare_is_refused_at_once(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        LockstepWorlds(TorchVectorEnv(SAME_STEP, **changes), id="torch")


def test_a_same_step_world_without_last_views_is_refused() -> None:
    worlds = LockstepWorlds(TorchVectorEnv(SAME_STEP, info=lambda info: {"success": torch.zeros(3)}), id="torch")
    step = worlds.reset(0)
    with pytest.raises(ValueError, match=r"rows \[0\] ended, but the info holds neither 'final_obs' nor"):
        for _ in range(2):
            worlds.send(step.rows, torch.zeros(3, 1))
            step = worlds.recv()


def test_action_spaces_that_are_neither_box_discrete_nor_text_are_refused() -> None:
    env = TorchVectorEnv(SAME_STEP)
    env.single_action_space = spaces.MultiBinary(3)
    wanted = r"torch: the action space is MultiBinary\(3\), expected a Box, a Discrete or a Text"
    with pytest.raises(TypeError, match=wanted):
        LockstepWorlds(env, id="torch")


def test_verdict_falls_back_on_the_reward_threshold_and_one_seed_serves_all_rows() -> None:
    cartpole = gymnasium.make_vec("CartPole-v1", 2, vectorization_mode="vector_entry_point")
    assert cartpole.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    worlds = LockstepWorlds(cartpole, id="CartPole-v1", row_seeds=False)
    assert worlds.spec.success == "return so far >= 475 (the reward_threshold of CartPole-v1)"
    step = worlds.reset(0)
    gains = torch.tensor([0.1, 0.5, 1.0, 0.5])  # balances the pole
    for turn in range(500):
        state = step.observation.state
        assert state is not None
        worlds.send(step.rows, (state @ gains > 0).long())
        step = worlds.recv()
        if turn < 499:
            assert step.success.tolist() == [turn >= 474] * 2
    assert step.truncated.all() and step.success.all() and not step.terminated.any()
    assert step.final is not None and step.final.state is not None and step.observation.state is not None
    assert (step.observation.state.abs() <= 0.05).all() and (step.final.state.abs() > 0.05).any()


def test_no_verdict_and_no_threshold_is_said_by_an_empty_definition() -> None:
    worlds = lockstep(Scripted(verdict=""))
    assert worlds.spec.success == ""
    worlds = lockstep(Scripted(verdict="is_success"))
    assert worlds.spec.success == "info['is_success']"


# What callers do wrong.


@pytest.mark.parametrize(
    ("takes", "action", "message"),
    [
        ("box", torch.zeros(4, 1, 3), r"shape \[4, 1, 3\], expected \[4, 1, 2\]"),
        ("box", torch.zeros(3, 1, 2), r"shape \[3, 1, 2\]"),
        ("box", torch.tensor([[0, 0], [0, 0], [0, np.nan], [0, 0]]), r"row 2 is \[\[0.0, nan\]\].*Box"),
        ("discrete", torch.tensor([0, 2, 0, 0]), r"row 1 is \[2\].*Discrete\(3, start=-1\)"),
        ("discrete", torch.tensor([0.5, 0, 0, 0]), r"row 0 is \[0.5\]"),
        ("box", ["left"] * 4, r"send a tensor, got list"),
    ],
)
def test_wrong_actions_are_refused_and_the_row_still_waits(takes: str, action: Any, message: str) -> None:
    worlds = lockstep(Scripted(takes=takes))
    step = worlds.reset(SEED)
    with pytest.raises(ValueError, match=message):
        worlds.send(step.rows, action)
    worlds.send(step.rows, torch.zeros(4, 1, *(step.rewards.new_zeros(2).shape if takes == "box" else ())))
    assert worlds.recv().played.tolist() == [1] * 4


def test_rows_are_counted() -> None:
    worlds = lockstep(Scripted())
    with pytest.raises(ValueError, match=r"rows that wait for one are \[\]"):
        worlds.send(torch.tensor([0]), torch.zeros(1, 2))
    step = worlds.reset(SEED)
    with pytest.raises(RuntimeError, match=r"rows \[0, 1, 2, 3\] have none"):
        worlds.recv()
    worlds.send(torch.tensor([3, 1]), torch.ones(2, 1, 2))
    with pytest.raises(RuntimeError, match=r"rows \[0, 2\] have none"):
        worlds.recv()
    for rows in ([1], [0, 0], [4], [-1]):
        with pytest.raises(ValueError, match=r"the rows that wait for one are \[0, 2\]"):
            worlds.send(torch.tensor(rows), torch.zeros(len(rows), 1, 2))
    worlds.send(torch.tensor([0, 2]), torch.zeros(2, 1, 2))
    parts = worlds.recv()
    step = worlds.reset(SEED)
    worlds.send(step.rows, torch.tensor([0.0, 1, 0, 1])[:, None, None].expand(4, 1, 2))
    assert same_tensors(worlds.recv(), parts)


def test_closing_twice_is_safe() -> None:
    worlds = lockstep(Scripted())
    worlds.close()
    worlds.close()
    assert worlds.venv.closed


@pytest.mark.gpu
def test_tensors_stay_on_the_gpu() -> None:
    worlds = LockstepWorlds(ReachEnv(64, "cuda"), id="toy/reach-v0", chunk=2)
    step = worlds.reset(0)
    for _ in range(30):
        assert step.observation.state is not None and step.observation.state.is_cuda and step.rewards.is_cuda
        worlds.send(step.rows, expert_action(step.observation.state)[:, None].expand(64, 2, 2))
        step = worlds.recv()
        if step.final is not None and step.final.state is not None:
            assert step.final.state.is_cuda
    bad = torch.full((64, 2, 2), float("nan"), device="cuda")
    with pytest.raises(ValueError, match="row 0"):
        worlds.send(step.rows, bad)
