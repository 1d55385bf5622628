"""Evaluation: which episodes are played is settled before the first action, and every rate has its interval.

A fixed quota a row keeps short episodes from being counted too often (counting whichever episodes end first does).
Row r of B plays episodes r, r + B, r + 2B, …, so that together they play episodes 0 … N - 1 of the seed, whatever B
is: two policies evaluated with the same seed meet the same starts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from palaestra.launch.randomness import seeded
from palaestra.launch.statistics import (
    Interval,
    Separation,
    separate,
    separate_paired,
    smallest_visible_difference,
    wilson,
)

if TYPE_CHECKING:
    from palaestra.agents.core import Policy
    from palaestra.envs.core import Fault, Step, Worlds

Column = Literal["success_once", "success_at_end"]
ROUNDS = 2**31
"""Where the seeds of later rounds come from: far from the indices of any evaluation's episodes."""


@dataclass(frozen=True, slots=True)
class PlayedEpisode:
    """One finished episode."""

    seed: int
    """The seed that its world was reset with."""
    success_once: bool | None
    """The task's verdict was true at some time; None where the world defines no success."""
    success_at_end: bool | None
    """The task's verdict on the last view; None where the world defines no success."""
    total: float
    """The return: the sum of its rewards, undiscounted."""
    length: int
    """Single actions played."""


@dataclass(frozen=True, slots=True)
class VoidEpisode:
    """An episode that a fault voided: no success and no failure."""

    seed: int
    """The seed that its world was reset with."""
    fault: Fault
    """What broke."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a policy did in a fixed list of episodes."""

    name: str
    """Of the policy, in tables."""
    success_definition: str
    """How the world defines success; empty where it does not, and then there is no rate."""
    seed: int
    """What the start states come from."""
    count: int
    """Rows played in parallel (some simulators differ in the last bits with it)."""
    quota: int
    """Episodes that were to be played."""
    episode_list: tuple[PlayedEpisode, ...]
    """Finished episodes, in the order of the seed's episodes."""
    void: tuple[VoidEpisode, ...] = ()
    """Episodes lost to faults; each was made up for by the row's next start, once."""

    @property
    def success_once(self) -> float | None:
        """The share of episodes in which the task succeeded at some time."""
        return self.rate("success_once")

    @property
    def success_at_end(self) -> float | None:
        """The share of episodes that ended in success."""
        return self.rate("success_at_end")

    @property
    def interval_once(self) -> Interval | None:
        """Wilson's 95 % interval of `success_once`."""
        return self.interval("success_once")

    @property
    def interval_at_end(self) -> Interval | None:
        """Wilson's 95 % interval of `success_at_end`."""
        return self.interval("success_at_end")

    @property
    def return_mean(self) -> float | None:
        """The mean return; None where no episode was finished."""
        return _mean([episode.total for episode in self.episode_list])

    @property
    def length_mean(self) -> float | None:
        """The mean length in single actions; None where no episode was finished."""
        return _mean([episode.length for episode in self.episode_list])

    @property
    def summary(self) -> str:
        """One line for people: rates with interval, count, seed and definition, or the return alone."""
        count = len(self.episode_list)
        counted = f"{count} episodes of seed {self.seed}"
        if self.void:
            counted += f", {len(self.void)} more lost to faults"
        if not count:
            return f"{self.name}: nothing to report ({counted})"
        if not self.success_definition:
            return (
                f"{self.name}: return {self.return_mean:.3g} ({counted}; no rate: this world defines no success, "
                "which it would by info['success'])"
            )
        return (
            f"{self.name}: success once {_points(self.success_once, self.interval_once)}, at the end "
            f"{_points(self.success_at_end, self.interval_at_end)} ({counted}; success is {self.success_definition})"
        )

    @property
    def resolution(self) -> str:
        """One line for people: how far two policies must differ to be told apart by so many episodes."""
        if self.success_once is None:
            return ""
        count = len(self.episode_list)
        points = 100 * smallest_visible_difference(self.successes("success_once"), count)
        return f"{count} episodes cannot separate policies whose success differs by less than {points:.0f} points."

    def to_json(self) -> dict[str, Any]:
        """Return the evaluation as `result.json` holds it."""
        return {
            "name": self.name,
            "success_definition": self.success_definition,
            "episodes": len(self.episode_list),
            "success_once": self.success_once,
            "success_at_end": self.success_at_end,
            "interval_once": self.interval_once and list(self.interval_once),
            "interval_at_end": self.interval_at_end and list(self.interval_at_end),
            "faults": len(self.void),
            "return_mean": self.return_mean,
            "length_mean": self.length_mean,
            "seed": self.seed,
            "count": self.count,
            "quota": self.quota,
            "episode_list": [
                {
                    "seed": episode.seed,
                    "success_once": episode.success_once,
                    "success_at_end": episode.success_at_end,
                    "return": episode.total,
                    "length": episode.length,
                }
                for episode in self.episode_list
            ],
            "fault_list": [
                {
                    "seed": lost.seed,
                    "row": lost.fault.row,
                    "boundary": lost.fault.boundary,
                    "message": lost.fault.message,
                }
                for lost in self.void
            ],
        }

    @staticmethod
    def from_json(entry: Mapping[str, Any]) -> Evaluation:
        """Return the evaluation that `to_json` described."""
        from palaestra.envs.core import Fault

        played = tuple(
            PlayedEpisode(each["seed"], each["success_once"], each["success_at_end"], each["return"], each["length"])
            for each in entry["episode_list"]
        )
        void = tuple(
            VoidEpisode(lost["seed"], Fault(lost["row"], lost["boundary"], lost["message"]))
            for lost in entry["fault_list"]
        )
        return Evaluation(
            entry["name"], entry["success_definition"], entry["seed"], entry["count"], entry["quota"], played, void
        )

    def successes(self, column: Column) -> int:
        """Return how many episodes succeeded, at some time or at the end."""
        return sum(getattr(episode, column) is True for episode in self.episode_list)

    def rate(self, column: Column) -> float | None:
        """Return the share of episodes that succeeded, None where the world does not say or none was finished."""
        known = self.success_definition and self.episode_list
        return self.successes(column) / len(self.episode_list) if known else None

    def interval(self, column: Column) -> Interval | None:
        """Return Wilson's 95 % interval of `rate`."""
        return None if self.rate(column) is None else wilson(self.successes(column), len(self.episode_list))


def evaluate(
    worlds: Worlds,
    policy: Policy,
    episodes: int,
    seed: int,
    name: str = "policy",
    progress: Callable[[int], object] | None = None,
) -> Evaluation:
    """Play episodes 0 … `episodes` - 1 of a seed and count.

    A faulted episode is void: its row plays its next start instead, once. Worlds that choose all starts but the first
    themselves are reset for each episode of a row, with seeds derived from this one, so that each recorded seed is
    the one that its episode started from. The global random generators are seeded
    for the while and put back, so that training goes on as if it had not been evaluated, and the same seed gives
    the same result on worlds that repeat themselves.

    Args:
        worlds: stepped together or one by one; they are reset first, and left in the middle of episodes.
        policy: as it would be deployed.
        episodes: how many.
        seed: of the start states and of the policy's draws.
        name: what tables call the policy.
        progress: called with the number of episodes settled since the last call.

    Raises:
        ValueError: `episodes` is below one.
    """
    import torch

    if episodes < 1:
        raise ValueError(f"evaluate was asked for {episodes} episodes; it needs at least 1.")
    tally = _Tally(worlds, episodes, seed)
    # Not inference_mode: tensors that worlds and policies keep from here must stay usable in training.
    with seeded(seed), torch.no_grad():
        while any(tally.open):
            _play_round(worlds, policy, tally, progress)
    return tally.evaluation(name)


def _play_round(worlds: Worlds, policy: Policy, tally: _Tally, progress: Callable[[int], object] | None) -> None:
    """Play from a reset until no row is wanted any more."""
    step = worlds.reset(tally.begin_round())
    while True:
        settled = tally.add(step)
        if settled and progress is not None:
            progress(settled)
        if not bool(tally.wanted.any()):
            return
        rows, observation = step.rows, step.observation
        wanted = tally.wanted[rows.cpu()].to(rows.device)
        if not worlds.spec.lockstep and not bool(wanted.all()):
            rows, observation = rows[wanted], observation[wanted]
        if len(rows):
            worlds.send(rows, policy.act(observation).action)
        step = worlds.recv()


def separation(first: Evaluation, second: Evaluation) -> Separation | None:
    """Return whether two evaluations tell their policies apart by success once, and else the warning to print.

    Evaluations on the same episodes are compared as pairs, which separates more with as many. None where a world
    defines no success or no episode was finished.
    """
    if first.success_once is None or second.success_once is None:
        return None
    left, right = first.episode_list, second.episode_list
    if [episode.seed for episode in left] == [episode.seed for episode in right]:
        return separate_paired([e.success_once is True for e in left], [e.success_once is True for e in right])
    return separate(first.successes("success_once"), len(left), second.successes("success_once"), len(right))


class _Tally:
    """Who still has to play what, and what came of it."""

    def __init__(self, worlds: Worlds, episodes: int, seed: int) -> None:
        import torch

        self.success, self.one_a_round = worlds.spec.success, not worlds.spec.seeded
        self.count, self.quota, self.seed = worlds.count, episodes, seed
        self.open = [len(range(row, episodes, self.count)) for row in range(self.count)]
        self.retrying = [False] * self.count
        self.round, self.round_seed = -1, seed
        self.episode = [0] * self.count
        self.wanted = torch.zeros(self.count, dtype=torch.bool)
        self.total = torch.zeros(self.count, dtype=torch.float64)
        self.length = torch.zeros(self.count, dtype=torch.int64)
        self.played: list[tuple[tuple[int, int], PlayedEpisode]] = []
        self.void: list[tuple[tuple[int, int], VoidEpisode]] = []

    def begin_round(self) -> int:
        """Return the seed to reset with. There is one round, unless each row plays one episode a round."""
        import torch

        from palaestra.envs.core import episode_seed

        self.round += 1
        if self.round:
            self.round_seed = episode_seed(self.seed, ROUNDS + self.round)
        self.episode = [0] * self.count
        self.wanted = torch.tensor([quota > 0 for quota in self.open])
        self.total.zero_()
        self.length.zero_()
        return self.round_seed

    def add(self, step: Step) -> int:
        """Count what the ready rows report, and return how many episodes it settled."""
        rows = step.rows.cpu()
        self.total[rows] += step.rewards.double().sum(1).cpu()
        self.length[rows] += step.played.cpu()
        over = (step.ended | step.faulted).cpu()
        if not bool(over.any()):
            return 0
        before = sum(self.open)
        once, end = step.success_once.tolist(), step.success.tolist()
        for place in over.nonzero().flatten().tolist():
            row = int(rows[place])
            if self.wanted[row]:
                fault = step.faults[place] if step.faults else None
                self._settle(row, fault, once[place], end[place])
            self.total[row], self.length[row] = 0.0, 0
            self.episode[row] += 1
        return before - sum(self.open)

    def _settle(self, row: int, fault: Fault | None, once: bool, end: bool) -> None:
        """Record a row's episode, played to its end or void, and take it off the row's quota."""
        from palaestra.envs.core import episode_seed

        index = row + self.episode[row] * self.count
        seed = episode_seed(self.round_seed, index)
        place = (self.round, index)
        if fault is None:
            judged = bool(self.success)
            total, length = float(self.total[row]), int(self.length[row])
            episode = PlayedEpisode(seed, once if judged else None, end if judged else None, total, length)
            self.played.append((place, episode))
        else:
            self.void.append((place, VoidEpisode(seed, fault)))
        self.retrying[row] = fault is not None and not self.retrying[row]
        if not self.retrying[row]:
            self.open[row] -= 1
        self.wanted[row] = self.open[row] > 0 and not self.one_a_round

    def evaluation(self, name: str) -> Evaluation:
        """Return what was counted."""
        played = tuple(episode for _, episode in sorted(self.played, key=lambda entry: entry[0]))
        void = tuple(episode for _, episode in sorted(self.void, key=lambda entry: entry[0]))
        return Evaluation(name, self.success, self.seed, self.count, self.quota, played, void)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _points(rate: float | None, interval: Interval | None) -> str:
    """Return a rate and its interval in per cent."""
    assert rate is not None and interval is not None
    return f"{100 * rate:.1f} % [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"
