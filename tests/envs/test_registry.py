import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import pytest
import torch
from gymnasium.vector import VectorEnv

from palaestra.envs import registry
from palaestra.envs.lockstep import LockstepWorlds
from palaestra.envs.pool import PoolWorlds
from palaestra.envs.registry import find, make, names, register
from palaestra.envs.toy import ReachEnv

PLUGIN = Path(__file__).parent.parent / "plugin"
Distribute = Callable[..., None]


@pytest.fixture
def distribute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Distribute:
    """Puts distributions on the module path, each with entry points and perhaps a module."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def distribute(name: str, worlds: dict[str, str], **modules: str) -> None:
        folder = tmp_path / f"{name}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        lines = "\n".join(f"{world} = {target}" for world, target in worlds.items())
        (folder / "entry_points.txt").write_text(f"[palaestra.envs]\n{lines}\n")
        for module, source in modules.items():
            (tmp_path / f"{module}.py").write_text(source)

    return distribute


@pytest.fixture
def own_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forgets what a test registers."""
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Installs the sample plug-in with pip, beside everything else."""
    target = tmp_path_factory.mktemp("site")
    source = tmp_path_factory.mktemp("source")
    for file in PLUGIN.iterdir():  # pip leaves build folders in its source
        if file.is_file():
            (source / file.name).write_bytes(file.read_bytes())
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", target, source], check=True, env=os.environ | {"PYTHONPATH": ""})
    sys.path.insert(0, str(target))
    sys.modules.pop("my_kitchen", None)
    yield target
    sys.path.remove(str(target))
    sys.modules.pop("my_kitchen", None)


def test_installed_plugin_is_known_without_being_imported_and_makes_worlds(installed: Path) -> None:
    assert "kitchen/open-drawer-v0" in names()
    assert "my_kitchen" not in sys.modules
    worlds = make("kitchen/open-drawer-v0", 2, workers=1, goal=0.2)
    try:
        assert sys.modules["my_kitchen"].__file__ == str(installed / "my_kitchen.py")
        assert worlds.spec.id == "kitchen/open-drawer-v0" and worlds.spec.success == "info['success']"
        step = worlds.reset(seed=0)
        opened = torch.zeros(2, dtype=torch.bool)
        for _ in range(25):  # go to the handle, hold it, pull
            assert step.observation.state is not None
            hand, handle, _ = step.observation.state.T
            holds = (hand - handle).abs() < 0.09
            action = torch.where(holds, 1.0, ((handle - hand) * 10).clamp(-1, 1))
            worlds.send(step.rows, torch.stack((action, holds.float()), 1))
            step = worlds.recv()
            opened |= step.success & step.terminated
        assert opened.all()
    finally:
        worlds.close()
    with pytest.raises(ValueError, match=r"no option 'gaol'. Did you mean 'goal'\? Its options are goal"):
        make("kitchen/open-drawer-v0", gaol=0.2)
    with pytest.raises(ValueError, match=r"'kitchen/open-draw-v0'. Did you mean 'kitchen/open-drawer-v0'"):
        make("kitchen/open-draw-v0")


def test_broken_plugin_breaks_itself_alone_and_is_named(distribute: Distribute) -> None:
    distribute("bad-kitchen", {"kitchen/bad-v0": "bad_kitchen:make"}, bad_kitchen="import nothing_like_this")
    distribute("hollow", {"hollow/v0": "hollow_world:make"}, hollow_world="make = 3")
    assert {"kitchen/bad-v0", "hollow/v0", "toy/reach-v0"} <= set(names())
    with pytest.raises(ImportError, match=r"bad_kitchen:make of the package bad-kitchen 1.0 raised ModuleNotFound"):
        make("kitchen/bad-v0")
    with pytest.raises(TypeError, match=r"'hollow/v0' is 3: expected a function"):
        make("hollow/v0")
    assert make("toy/reach-v0").count == 1


def test_two_owners_of_one_name_are_both_named(distribute: Distribute) -> None:
    distribute("first", {"kitchen/pan-v0": "first_pan:make"})
    distribute("second", {"kitchen/pan-v0": "second_pan:make", "toy/reach-v0": "second_pan:make"})
    with pytest.raises(ValueError, match=r"has 2 owners: .*first 1.0 \(first_pan:make\)") as error:
        make("kitchen/pan-v0")
    assert "second 1.0 (second_pan:make)" in str(error.value)
    with pytest.raises(ValueError, match=r"second 1.0 \(second_pan:make\) and palaestra.envs.toy:ReachEnv"):
        make("toy/reach-v0")


def test_toy_world_is_stepped_in_lock_step_and_options_reach_it() -> None:
    worlds = make("toy/reach-v0", 3, chunk=2, render_mode="rgb_array")
    assert isinstance(worlds, LockstepWorlds) and worlds.venv.render_mode == "rgb_array"
    assert (worlds.count, worlds.spec.chunk) == (3, 2)


def test_module_and_function_is_a_world() -> None:
    worlds = make("palaestra.envs.toy:ReachEnv", 2)
    assert isinstance(worlds, LockstepWorlds) and isinstance(worlds.venv, ReachEnv)


def test_gymnasium_id_is_a_pool_of_single_worlds() -> None:
    worlds = make("CartPole-v1", 3, workers=1, chunk=2, max_episode_steps=5)
    try:
        assert isinstance(worlds, PoolWorlds)
        assert worlds.spec.max_steps == 5 and worlds.spec.id == "CartPole-v1"
        step = worlds.reset(0)
        played = []
        for _ in range(3):
            worlds.send(step.rows, torch.tensor([[0, 1]] * 3))
            step = worlds.recv()
            played.append(step.played.tolist())
        assert played == [[2] * 3, [2] * 3, [1] * 3] and step.truncated.all()
    finally:
        worlds.close()


@pytest.mark.simulator
def test_maniskill_tasks_are_known_by_name_and_their_options_are_checked() -> None:
    assert "maniskill/PushCube-v1" in names()
    with pytest.raises(ValueError, match=r"no option 'observations'. Did you mean 'observation'"):
        make("maniskill/PushCube-v1", observations="state")
    with pytest.raises(ValueError, match="Did you mean PushCube-v1"):
        make("maniskill/PushCub-v1")


@pytest.mark.parametrize(
    ("id", "error", "message"),
    [
        ("toy/rech-v0", ValueError, r"no world 'toy/rech-v0'. Did you mean 'toy/reach-v0'.*palaestra list"),
        ("PushCube-v1", ValueError, r"Did you mean 'maniskill/PushCube-v1'\?"),
        ("CartPol-v1", ValueError, r"Did you mean 'CartPole-v1'"),
        ("zzzzzz", ValueError, r"no world 'zzzzzz'. `palaestra list`"),
        ("no_such_module:make", ImportError, r"no module 'no_such_module'"),
        ("palaestra.envs.toy:ReachEn", ValueError, r"has no 'ReachEn'. Did you mean 'ReachEnv'"),
        ("palaestra.envs.toy:WALL", TypeError, r"is 0.5: expected a function"),
    ],
)
def test_wrong_names_get_the_nearest_right_one(id: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make(id)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 0}, "count is 0, expected an integer of at least 1"),
        ({"count": 2.0}, "count is 2.0"),
        ({"chunk": -1}, "chunk is -1"),
        ({"chunk": True}, "chunk is True"),
        ({"workers": 0}, "workers is 0"),
        ({"batch": 3, "count": 2}, "batch is 3, but there are only 2 rows"),
        ({"workers": 2}, "vectorised.*workers=2 means nothing. Leave 'workers' out"),
        ({"device": "gpu"}, "device is 'gpu', expected 'cpu', 'cuda'"),
        ({"rendermode": "x"}, "no option 'rendermode'. Did you mean 'render_mode'"),
    ],
)
def test_sizes_and_options_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make("toy/reach-v0", **options)


def test_device_is_refused_where_worlds_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="torch finds no CUDA device here"):
        make("toy/reach-v0", device="cuda")
    with pytest.raises(ValueError, match=r"CartPole-v1 is simulated on the CPU alone, but device is 'meta'"):
        make("CartPole-v1", device="meta")


def test_option_of_a_gymnasium_world_is_checked_before_any_process_starts() -> None:
    with pytest.raises(ValueError, match=r"no option 'gravty'.*Its options are max_episode_steps, .*render_mode"):
        make("CartPole-v1", gravty=1)


def open_field(num_envs: int, size: float = 1.0) -> VectorEnv[Any, Any, Any]:
    assert size == 2.0
    return ReachEnv(num_envs)


def lying_field(count: int) -> VectorEnv[Any, Any, Any]:
    return ReachEnv(count + 1)


def test_registered_factory_gets_count_and_options(own_names: None) -> None:
    register("field/open-v0", open_field)
    register("field/open-v0", open_field)  # the same again is no quarrel
    assert "field/open-v0" in names() and find("field/open-v0") is open_field
    assert make("field/open-v0", 4, size=2.0).count == 4
    with pytest.raises(ValueError, match=r"registered already, by .*open_field"):
        register("field/open-v0", lying_field)
    register("field/lying-v0", lying_field)
    with pytest.raises(TypeError, match=r"should return a VectorEnv of 2 worlds, but returned ReachEnv\(num_envs=3\)"):
        make("field/lying-v0", 2)


@pytest.mark.parametrize("id", ["", "a:b", "maniskill/Mine-v1"])
def test_names_that_would_be_misread_are_refused(id: str) -> None:
    with pytest.raises(ValueError, match="cannot be registered"):
        register(id, ReachEnv)


def test_worlds_registered_with_gymnasium_by_the_user_are_found() -> None:
    gymnasium.register("Mine/Balance-v0", "gymnasium.envs.classic_control:CartPoleEnv", max_episode_steps=7)
    try:
        worlds = make("Mine/Balance-v0", workers=1)
        assert worlds.spec.max_steps == 7
        worlds.close()
    finally:
        del gymnasium.registry["Mine/Balance-v0"]
