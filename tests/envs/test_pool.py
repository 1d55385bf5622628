import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scripted_worlds import Scripted

from palaestra.envs.chunk import Episode
from palaestra.envs.core import Observation, Step, episode_seed, same_tensors
from palaestra.envs.pool import PoolWorlds
from palaestra.envs.spaces import batched, describe

SEED = 11
Make = Callable[..., PoolWorlds]


@pytest.fixture
def pool() -> Iterator[Make]:
    """Makes pools, and closes them."""
    made: list[PoolWorlds] = []

    def make(script: Scripted, count: int, **options: Any) -> PoolWorlds:
        options = {"id": "scripted", "workers": 2, "backoff": 0.01, "success": "scripted", **options}
        made.append(PoolWorlds(script, count, **options))
        return made[-1]

    yield make
    for worlds in made:
        worlds.close()


def actions(worlds: PoolWorlds, turn: int, rows: list[int]) -> Any:
    """What this file's agent does at a turn: different for every row, turn and place in the chunk."""
    kind = type(worlds.spec.action).__name__
    if kind == "Text":
        return ["tap " * (1 + (row + turn) % 4) for row in rows]
    numbers = torch.Generator().manual_seed(turn)
    shape = (worlds.count, worlds.spec.chunk)
    if kind == "Discrete":
        return torch.randint(-1, 2, shape, generator=numbers)[rows]
    return torch.rand(*shape, 2, generator=numbers)[rows] * 2 - 1


def play(worlds: PoolWorlds, turns: int) -> list[Step]:
    """Reset the worlds, and play all rows together."""
    steps = [worlds.reset(SEED)]
    for turn in range(turns):
        rows = list(range(worlds.count))
        worlds.send(torch.tensor(rows), actions(worlds, turn, rows))
        steps.append(worlds.recv())
    return steps


def only(observation: Any, script: Scripted) -> Observation:
    """Return one world's observation as a batch of one, by the slow and obvious way."""
    if script.shows == "text":
        return Observation(text=(observation,))
    if script.shows == "dict":
        one = {key: [value] if isinstance(value, str) else np.array(value)[None] for key, value in observation.items()}
        return batched(describe(script().observation_space), one)
    one = torch.from_numpy(observation)[None]
    return Observation(images={"image": one}) if script.shows == "image" else Observation(state=one)


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize(
    ("shows", "takes", "chunk"),
    [("vector", "box", 1), ("vector", "box", 4), ("image", "discrete", 3), ("text", "text", 1), ("dict", "box", 2)],
)
def test_a_pool_is_its_single_worlds(pool: Make, workers: int, shows: str, takes: str, chunk: int) -> None:
    script = Scripted(shows, takes)
    worlds = pool(script, 5, workers=workers, chunk=chunk)
    singles = [Episode(script()) for _ in range(5)]
    episodes = [0] * 5
    steps = play(worlds, 14)
    views = [only(single.start(episode_seed(SEED, row)), script) for row, single in enumerate(singles)]
    assert same_tensors(steps[0].observation, Observation.concatenate(views))
    assert not steps[0].played.any() and steps[0].rewards.shape == (5, chunk)
    ends = 0
    for turn, step in enumerate(steps[1:]):
        sent = actions(worlds, turn, list(range(5)))
        finals = []
        for row, single in enumerate(singles):
            played = single.play([sent[row]] if takes == "text" else list(sent[row].numpy()))
            assert step.rewards[row].tolist() == played.rewards.tolist()
            flags = ("played", "terminated", "truncated", "success", "success_once")
            assert [getattr(step, f)[row].item() for f in flags] == [getattr(played, f) for f in flags]
            views[row] = only(played.observation, script)
            if played.terminated or played.truncated:
                finals.append(views[row])
                episodes[row] += 1
                views[row] = only(single.start(episode_seed(SEED, row + 5 * episodes[row])), script)
        assert same_tensors(step.observation, Observation.concatenate(views))
        assert (step.final is None) == (not finals) and step.faults == ()
        if step.final is not None:
            assert same_tensors(step.final, Observation.concatenate(finals))
            ends += len(finals)
    assert ends > 5  # every law above was put to the test


def test_rows_of_a_group_start_alike(pool: Make) -> None:
    worlds = pool(Scripted(length=2), 4)
    step = worlds.reset(SEED, group=2)
    state = step.observation.state
    assert state is not None and torch.equal(state[0], state[1]) and not torch.equal(state[0], state[2])
    for _ in range(2):
        worlds.send(step.rows, torch.zeros(4, 2))
        step = worlds.recv()
    state = step.observation.state
    assert state is not None and step.ended.all() and torch.equal(state[2], state[3])
    # Row 2 is in group 1 of 2, in its episode 1: index 1 + 1 * 2.
    assert torch.equal(state[2:3], only(Episode(Scripted()()).start(episode_seed(SEED, 3)), Scripted()).state)
    with pytest.raises(ValueError, match="group is 3, expected a divisor of count=4"):
        worlds.reset(SEED, group=3)


def test_what_was_returned_does_not_change(pool: Make) -> None:
    worlds = pool(Scripted(), 2)
    before = worlds.reset(SEED)
    copy = before.observation.map(torch.clone)
    play(worlds, 3)
    assert same_tensors(before.observation, copy)


def test_the_same_seed_starts_the_same_run_again(pool: Make) -> None:
    worlds = pool(Scripted(), 3, chunk=2)
    assert all(same_tensors(a, b) for a, b in zip(play(worlds, 5), play(worlds, 5), strict=True))


def test_the_spec_says_what_worlds_are(pool: Make) -> None:
    spec = pool(Scripted("dict", verdict="is_success"), 2, chunk=3, success=None).spec
    assert (spec.id, spec.state, spec.images, spec.text) == ("scripted", 4, {"wrist": (4, 5, 3)}, True)
    assert (spec.chunk, spec.success, spec.lockstep) == (3, "info['is_success']", False)
    assert spec.action == Scripted()().action_space
    assert pool(Scripted(verdict=""), 2, success=None).spec.success == ""


def test_a_slow_row_holds_up_nobody(pool: Make) -> None:
    slow = {episode_seed(SEED, 1): 1.0}
    worlds = pool(Scripted(length=50, slow=slow), 4, workers=4, batch=2)
    worlds.reset(SEED)
    began = time.monotonic()
    worlds.send(torch.tensor([3, 1, 0, 2]), torch.zeros(4, 2))
    seen = []
    while len(seen) < 6:
        step = worlds.recv()
        assert len(step.rows) >= 2 and step.rows.tolist() == sorted(step.rows.tolist())
        seen += step.rows.tolist()
        worlds.send(step.rows, torch.zeros(len(step.rows), 2))
    assert 1 not in seen and time.monotonic() - began < 1.0
    while 1 not in seen:
        step = worlds.recv()
        seen += step.rows.tolist()
        worlds.send(step.rows, torch.zeros(len(step.rows), 2))
    assert time.monotonic() - began >= 1.0


def test_rows_may_be_stepped_apart(pool: Make) -> None:
    worlds = pool(Scripted(length=50), 4)
    whole = play(worlds, 2)
    worlds.reset(SEED)
    for turn in range(2):
        for rows in ([2, 0], [3, 1]):
            worlds.send(torch.tensor(rows), actions(worlds, turn, rows))
            step = worlds.recv()
            assert step.rows.tolist() == sorted(rows)
            assert torch.equal(step.rewards, whole[turn + 1].rewards[sorted(rows)])


FAULTS = [
    ("raise", 2, "step", "ValueError: the gripper fell off at step 2"),
    ("nan", 2, "observation", "'state' holds nan at index 1"),
    ("shape", 2, "observation", "shape (2,), declared is (3,)"),
    ("dtype", 2, "observation", "dtype int64, declared is float32"),
    ("reward", 2, "reward", "reward is inf"),
    ("hang", 2, "timeout", "no answer for 0.5 s"),
    ("exit", 2, "worker", "exited with code 3"),
    ("kill", 2, "worker", "killed by signal 9"),
]


@pytest.mark.parametrize(("fault", "when", "boundary", "message"), FAULTS)
def test_a_fault_voids_its_episode_and_the_row_goes_on(
    pool: Make, fault: str, when: int, boundary: str, message: str
) -> None:
    healthy = Scripted(length=3)
    broken = Scripted(length=3, faults={episode_seed(SEED, 0): (fault, when)})
    options = {"timeout": 0.5} if fault == "hang" else {}
    truth = play(pool(healthy, 4), 4)
    worlds = pool(broken, 4, **options)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        steps = play(worlds, 4)
    assert len(caught) == 1 and message in str(caught[0].message)  # the user is told once
    step = steps[when]
    error = step.faults[0]
    assert error is not None and (error.row, error.boundary) == (0, boundary) and message in error.message
    assert ("Traceback" in error.traceback) == (boundary not in ("timeout", "worker"))
    assert not step.rewards[0].any() and not step.played[0] and not step.ended[0]
    # Row 0 shows its episode 1 at once.
    first = only(Episode(healthy()).start(episode_seed(SEED, 4)), healthy)
    assert same_tensors(step.observation[torch.tensor([0])], first)
    # Rows 2 and 3 live in the other worker and notice nothing; row 1 only if the worker was lost.
    spared = [1, 2, 3] if boundary not in ("timeout", "worker") else [2, 3]
    lost = [row for row in range(4) if row not in spared]
    assert step.faulted.nonzero().flatten().tolist() == lost
    for mine, other in zip(steps, truth, strict=True):
        assert torch.equal(mine.rewards[spared], other.rewards[spared])
        assert torch.equal(mine.ended[spared], other.ended[spared])
    # Episode 1 began one turn earlier than in the healthy run, and ends as any other of length 3.
    assert not steps[3].faults and not steps[4].faults
    worlds.send(steps[-1].rows, actions(worlds, 4, [0, 1, 2, 3]))
    assert worlds.recv().ended[0]


def test_a_reset_that_fails_after_an_end_spoils_the_next_episode_only(pool: Make) -> None:
    worlds = pool(Scripted(length=2, faults={episode_seed(SEED, 3): ("raise", 0)}), 2)
    with pytest.warns(RuntimeWarning, match="reset: ValueError: the gripper fell off at step 0"):
        steps = play(worlds, 5)
    # Row 1: episode 0 ends at turn 2; episode 1 cannot start, so episode 2's first view is shown.
    assert steps[2].ended.tolist() == [True, True] and not steps[2].faults and steps[2].final is not None
    later = only(Episode(Scripted()()).start(episode_seed(SEED, 5)), Scripted())
    assert same_tensors(steps[2].observation[torch.tensor([1])], later)
    # The next turn accounts for episode 1, and plays nothing.
    assert [fault.boundary if fault else None for fault in steps[3].faults] == [None, "reset"]
    assert steps[3].played.tolist() == [1, 0] and same_tensors(steps[3].observation[torch.tensor([1])], later)
    assert steps[4].ended.tolist() == [True, False] and steps[5].ended.tolist() == [False, True]


def test_a_reset_that_hangs_is_ended_and_its_episode_given_up(pool: Make) -> None:
    faults = {episode_seed(SEED, 2): ("hang", 0)}
    worlds = pool(Scripted(length=2, faults=faults), 2, timeout=0.4, start_timeout=2.0)
    with pytest.warns(RuntimeWarning, match="play: no answer for 0.4 s"):
        steps = play(worlds, 4)
    # Row 0's episode 0 had ended, but nobody heard of it; its episode 1 then hangs while it is started.
    messages = [[fault.message for fault in step.faults if fault and fault.row == 0] for step in steps]
    assert messages == [[], [], ["play: no answer for 0.4 s."], ["start: no answer for 2 s."], []]
    third = only(Episode(Scripted()()).start(episode_seed(SEED, 4)), Scripted())
    for step in steps[2:4]:
        assert same_tensors(step.observation[torch.tensor([0])], third)


def test_kill_9_from_outside_costs_the_current_episodes_of_one_worker(pool: Make, tmp_path: Path) -> None:
    worlds = pool(Scripted(length=4, pids=tmp_path), 4)
    truth = play(worlds, 6)
    with pytest.warns(RuntimeWarning, match="killed by signal 9"):
        worlds.reset(SEED)
        mine = []
        for turn in range(6):
            if turn == 1:  # between turns: rows 0 and 1 owe nothing now
                os.kill(worlds._workers[0].pid or 0, signal.SIGKILL)
            worlds.send(torch.arange(4), actions(worlds, turn, [0, 1, 2, 3]))
            mine.append(worlds.recv())
    assert [step.faulted.tolist() for step in mine[:3]] == [[False] * 4, [True, True, False, False], [False] * 4]
    assert len(list(tmp_path.iterdir())) == 3  # two workers and one in place of the dead
    for step, other in zip(mine, truth[1:], strict=True):
        assert torch.equal(step.rewards[2:], other.rewards[2:]) and torch.equal(step.ended[2:], other.ended[2:])
    # After a reset the scars are gone.
    assert all(same_tensors(a, b) for a, b in zip(play(worlds, 6), truth, strict=True))


def test_kill_9_while_recv_waits(pool: Make) -> None:
    worlds = pool(Scripted(length=9, slow={episode_seed(SEED, 0): 5.0}), 2)
    worlds.reset(SEED)
    worlds.send(torch.arange(2), torch.zeros(2, 2))
    code = f"import os, time; time.sleep(0.3); os.kill({worlds._workers[0].pid}, 9)"
    began = time.monotonic()
    with subprocess.Popen([sys.executable, "-c", code]), pytest.warns(RuntimeWarning):
        step = worlds.recv()
    assert step.faulted.tolist() == [True, False] and time.monotonic() - began < 4


def test_faults_at_random_lose_no_episode(pool: Make) -> None:
    """Each row's episodes are accounted for once, in order, whatever breaks."""
    kinds = ["raise", "exit", "nan", "reward", "raise"]
    chosen = np.random.default_rng(0).permutation(60)[:12]
    faults = {episode_seed(SEED, int(i)): (kinds[k % 5], k % 3) for k, i in enumerate(chosen)}
    script = Scripted(length=2, faults=faults, verdict="")
    worlds = pool(script, 6, workers=3)
    episodes = [0] * 6
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        step = worlds.reset(SEED)
        for turn in range(16):
            worlds.send(step.rows, actions(worlds, turn, step.rows.tolist()))
            step = worlds.recv()
            for row in (step.ended | step.faulted).nonzero().flatten().tolist():
                assert not (step.ended[row] and step.faulted[row])
                episodes[row] += 1
            for row in range(6):
                # What is shown starts or goes on in an episode that is not accounted for yet.
                if row in (step.ended | step.faulted).nonzero() and row not in worlds._rows._pending:
                    first = Episode(Scripted()()).start(episode_seed(SEED, row + 6 * episodes[row]))
                    assert step.observation.state is not None
                    assert step.observation.state[row].tolist() == first.tolist()
    assert min(episodes) >= 4


def test_a_world_that_never_starts_again_stops_the_pool(pool: Make, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    faults = {episode_seed(SEED, 0): ("raise", 1)}
    worlds = pool(Scripted(faults=faults, broken=broken), 2, max_failures=3)
    step = worlds.reset(SEED)
    broken.touch()
    worlds.send(step.rows, torch.zeros(2, 2))
    with pytest.warns(RuntimeWarning), pytest.raises(RuntimeError, match="row 0 of scripted failed to start 3") as e:
        worlds.recv()
    assert "licence has expired" in str(e.value) and "Traceback" in str(e.value)
    with pytest.raises(RuntimeError, match="closed"):
        worlds.reset(SEED)


def test_a_world_that_comes_back_after_a_while_is_waited_for(pool: Make, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    worlds = pool(Scripted(faults={episode_seed(SEED, 0): ("raise", 1)}, broken=broken), 2, backoff=0.1)
    step = worlds.reset(SEED)
    broken.touch()
    worlds.send(step.rows, torch.zeros(2, 2))
    heal = [sys.executable, "-c", f"import os, time; time.sleep(0.2); os.remove({str(broken)!r})"]
    boundaries = []
    with subprocess.Popen(heal), pytest.warns(RuntimeWarning):
        for _ in range(12):
            step = worlds.recv()
            boundaries += [fault.boundary for fault in step.faults if fault]
            worlds.send(step.rows, torch.zeros(2, 2))
    assert boundaries[0] == "step" and 1 <= boundaries.count("start") <= 4


def make_nothing() -> Any:
    raise OSError("no display")


def make_exit() -> Any:
    os._exit(7)


@pytest.mark.parametrize(("factory", "message"), [(make_nothing, "OSError: no display"), (make_exit, "code 7")])
def test_a_first_world_that_cannot_be_made_is_an_error_at_once(factory: Any, message: str) -> None:
    with pytest.raises(RuntimeError, match=f"(?s)toy cannot start: .*{message}"):
        PoolWorlds(factory, 2, id="toy", workers=1)


def test_bad_sizes_and_factories_are_refused_before_anything_starts() -> None:
    with pytest.raises(TypeError, match=r"cannot travel to a worker.*no lambda"):
        PoolWorlds(lambda: Scripted()(), 2, id="toy")
    for wrong in ({"count": 0}, {"chunk": 0}, {"workers": -1}, {"batch": 3}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} is {next(iter(wrong.values()))}"):
            PoolWorlds(Scripted(), **{"count": 2, "id": "toy", **wrong})
    with pytest.raises(ValueError, match="takes texts, one a step"):
        PoolWorlds(Scripted(takes="text"), 1, id="toy", chunk=2, success="")


def test_the_agents_faults_are_errors_at_send(pool: Make) -> None:
    worlds = pool(Scripted(), 2)
    with pytest.raises(ValueError, match="row 0 takes no action now: reset comes first"):
        worlds.send(torch.tensor([0]), torch.zeros(1, 2))
    worlds.reset(SEED)
    with pytest.raises(RuntimeError, match="call send first"):
        worlds.recv()
    with pytest.raises(ValueError, match=r"row 1 is \[\[nan, 0.0\]\]: not an action of Box"):
        worlds.send(torch.arange(2), torch.tensor([[0.0, 0.0], [float("nan"), 0.0]]))
    with pytest.raises(ValueError, match=r"rows are \[0, 2\], expected different ones from 0 to 1"):
        worlds.send(torch.tensor([0, 2]), torch.zeros(2, 2))
    worlds.send(torch.arange(2), torch.zeros(2, 2))
    with pytest.raises(ValueError, match="row 0 takes no action now"):
        worlds.send(torch.arange(2), torch.zeros(2, 2))
    assert worlds.recv().played.tolist() == [1, 1]


def test_reset_forgets_what_is_being_played(pool: Make) -> None:
    worlds = pool(Scripted(), 3)
    truth = worlds.reset(SEED)
    worlds.send(torch.arange(3), torch.zeros(3, 2))
    assert same_tensors(worlds.reset(SEED), truth)


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def _alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split(")")[1][:3]


def test_close_leaves_nothing_behind(tmp_path: Path) -> None:
    def once() -> None:
        worlds = PoolWorlds(Scripted("dict", pids=tmp_path), 4, id="toy", workers=2, success="")
        play(worlds, 2)
        worlds.close()
        worlds.close()

    once()
    gc.collect()
    memory, before = set(os.listdir("/dev/shm")), _descriptors()
    for _ in range(3):
        once()
    assert _descriptors() == before and set(os.listdir("/dev/shm")) <= memory
    assert not multiprocessing.active_children()
    pids = [int(file.name) for file in tmp_path.iterdir()]
    assert len(pids) == 8 and not any(_alive(pid) for pid in pids)


PARENT = """
import signal, sys, time, torch
from pathlib import Path
sys.path.insert(0, {folder!r})
from scripted_worlds import Scripted
from palaestra.envs.core import episode_seed
from palaestra.envs.pool import PoolWorlds
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # who starts in the background is born deaf to Ctrl-C
    script = Scripted(length=9, pids=Path({pids!r}), slow={{episode_seed(0, 0): 30.0}})
    worlds = PoolWorlds(script, 2, id="toy", workers=2, success="")
    worlds.reset(0)
    worlds.send(torch.arange(2), torch.zeros(2, 2))
    print("waiting", flush=True)
    worlds.recv()
"""


def test_workers_do_not_outlive_their_parent(tmp_path: Path) -> None:
    parents = []
    for number in (signal.SIGKILL, signal.SIGINT):
        program, pids = tmp_path / f"program{number}.py", tmp_path / f"pids{number}"
        pids.mkdir()
        program.write_text(PARENT.format(folder=str(Path(__file__).parent), pids=str(pids)))
        parent = subprocess.Popen([sys.executable, program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        parents.append((number, pids, parent))
    for number, pids, parent in parents:
        with parent:
            assert parent.stdout is not None and parent.stdout.readline() == b"waiting\n"
            workers = [int(file.name) for file in pids.iterdir()]
            assert len(workers) == 2 and all(_alive(pid) for pid in workers)
            parent.send_signal(number)
            parent.wait(20)
        deadline = time.monotonic() + 5
        while any(_alive(pid) for pid in workers) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not any(_alive(pid) for pid in workers)
