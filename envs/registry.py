"""Worlds by name: our own, plug-ins' by entry point, anybody's by `module:function`, and all of Gymnasium's.

A world's author writes one function (or class) and names it in the package's `pyproject.toml`:

    [project.entry-points."palaestra.envs"]
    "kitchen/open-drawer-v0" = "my_kitchen:make"

A function with a parameter `count` (or `num_envs`) returns a `gymnasium.vector.VectorEnv` of so many worlds,
which are stepped in lock-step; one without returns one `gymnasium.Env`, of which a pool of processes makes many.
It may also have a parameter `device`. Its other parameters are the world's options.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import warnings
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import EntryPoint, entry_points
from typing import Any, cast

import gymnasium
import numpy as np
import torch
from gymnasium.vector import VectorEnv

from palaestra.envs.android.adb_world import AdbPhoneEnv
from palaestra.envs.android.world import WORLDS as ANDROID
from palaestra.envs.core import Worlds
from palaestra.envs.driving.world import WORLDS as DRIVING
from palaestra.envs.lockstep import LockstepWorlds
from palaestra.envs.manipulation.tabletop.world import WORLDS as TABLETOP
from palaestra.envs.pool import PoolWorlds
from palaestra.envs.toy import ReachEnv

GROUP = "palaestra.envs"
"""The entry-point group of plug-ins."""

Factory = Callable[..., gymnasium.Env[Any, Any] | VectorEnv[Any, Any, Any]]

_COUNTS = ("count", "num_envs")
_MANISKILL = "maniskill/"
_registered: dict[str, Factory] = {
    "toy/reach-v0": ReachEnv, **DRIVING, **TABLETOP, **ANDROID, "android/adb-v0": AdbPhoneEnv
}  # fmt: skip


def make(
    id: str,
    count: int = 1,
    *,
    chunk: int = 1,
    workers: int | None = None,
    device: str = "cpu",
    batch: int | None = None,
    **options: Any,
) -> Worlds:
    """Make `count` worlds.

    Args:
        id: A name that `names()` lists, a Gymnasium id, or `module:function`.
        count: How many rows.
        chunk: How many actions one `send` carries a row.
        workers: Processes of worlds that are not vectorised, by default one a processor core.
        device: Where vectorised worlds are simulated, such as `cuda`.
        batch: `recv` of worlds that are not vectorised returns as soon as this many rows are ready.
        options: The world's own options.

    Returns:
        The worlds, to be closed when done with.

    Raises:
        ValueError: For an unknown name or option, a size that makes no sense, or a name with two owners.
        ImportError: Where the package that holds the world does not load.

    Example:
        >>> worlds = make("toy/reach-v0", count=8)
        >>> worlds.reset(seed=0).observation.state.shape
        torch.Size([8, 6])
    """
    _check_sizes(id, count, chunk, workers, batch)
    return source(id, device, **options).worlds(count, chunk, workers, batch)


@dataclass(frozen=True)
class Source:
    """Where a name's worlds come from, its options settled."""

    id: str
    """The name."""
    single: Callable[[], gymnasium.Env[Any, Any]] | None = None
    """Makes one world, or None where worlds are vectorised."""
    vector: Callable[[int], VectorEnv[Any, Any, Any]] | None = None
    """Makes so many worlds at once, or None where it cannot."""
    success: str | None = None
    """The verdict in words, where it is known without playing."""

    def worlds(
        self, count: int, chunk: int = 1, workers: int | None = None, batch: int | None = None
    ) -> LockstepWorlds | PoolWorlds:
        """Make worlds; see `make`."""
        if self.single is not None:
            return PoolWorlds(
                self.single, count, id=self.id, chunk=chunk, workers=workers, batch=batch, success=self.success
            )
        assert self.vector is not None
        for name, size in (("workers", workers), ("batch", batch)):
            if size is not None:
                raise ValueError(
                    f"{self.id} is vectorised: all rows are stepped together in this process, so {name}={size} means "
                    f"nothing. Leave {name!r} out."
                )
        venv = self.vector(count)
        if not isinstance(venv, VectorEnv) or venv.num_envs != count:
            raise TypeError(
                f"{self.id}: its factory has a parameter 'count' or 'num_envs', so it should return a VectorEnv of "
                f"{count} worlds, but returned {venv!r}. A factory of single worlds has no such parameter."
            )
        return LockstepWorlds(venv, id=self.id, chunk=chunk)


def source(id: str, device: str = "cpu", **options: Any) -> Source:
    """Find a name and settle its options, making nothing yet; see `make` for arguments and errors."""
    _check_device(id, device)
    if id.startswith(_MANISKILL):
        return _maniskill(id, device, options)
    factory = find(id)
    accepted = _parameters(factory)
    _check_options(id, options, accepted)
    if "device" in accepted:
        options["device"] = device
    else:
        _refuse_device(id, device)
    by_count = next((name for name in _COUNTS if name in accepted), None)
    if by_count is None:
        return Source(id, single=cast(Callable[[], gymnasium.Env[Any, Any]], partial(factory, **options)))
    return Source(id, vector=lambda count: cast(VectorEnv[Any, Any, Any], factory(**{by_count: count}, **options)))


def register(id: str, factory: Factory) -> None:
    """Give a factory a name in this process. Packages declare an entry point instead.

    Raises:
        ValueError: Where the name is taken or is no name.
    """
    if not id or ":" in id or id.startswith(_MANISKILL):
        raise ValueError(f"a world cannot be registered as {id!r}: choose a name like 'kitchen/open-drawer-v0'.")
    owner = _registered.get(id)
    if owner is not None and owner is not factory:
        raise ValueError(f"{id!r} is registered already, by {_where(owner)}: choose another name than that.")
    _registered[id] = factory


def names() -> list[str]:
    """Return the names of all worlds but Gymnasium's, sorted. No plug-in is imported for it."""
    from palaestra.envs.manipulation.maniskill import TASKS

    plugins = (entry.name for entry in entry_points(group=GROUP))
    return sorted({*_registered, *plugins, *(_MANISKILL + task for task in TASKS)})


def find(id: str) -> Factory:
    """Return the factory behind a name; of a Gymnasium id, one that makes single worlds.

    Raises:
        ValueError: For an unknown name, or one with two owners.
        ImportError: Where the package that holds it does not load.
    """
    entries = {(_distribution(entry), entry.value): entry for entry in entry_points(group=GROUP, name=id)}
    owners = [f"{name} ({value})" for name, value in entries]
    if id in _registered:
        owners.append(_where(_registered[id]))
    if len(owners) > 1:
        raise ValueError(f"{id!r} has {len(owners)} owners: {' and '.join(owners)}. Uninstall or rename one.")
    if id in _registered:
        return _registered[id]
    if entries:
        return _load(id, *entries.values())
    if ":" in id:
        return _import(id)
    spec = gymnasium.registry.get(id) or _from_packages(id)
    if spec is None or _MANISKILL + id in names():  # once imported, ManiSkill gives Gymnasium its batched worlds
        raise ValueError(_unknown(id))
    return partial(_gymnasium, spec)


def _gymnasium(spec: gymnasium.envs.registration.EnvSpec, **options: Any) -> gymnasium.Env[Any, Any]:
    """Make one of Gymnasium's worlds; by its spec, since a worker process may not know its id. Tables are flattened."""
    env = gymnasium.make(spec, disable_env_checker=True, **options)
    space = env.observation_space
    table = isinstance(space, gymnasium.spaces.Box) and len(space.shape) > 1 and space.dtype != np.uint8
    return gymnasium.wrappers.FlattenObservation(env) if table else env


def _from_packages(id: str) -> gymnasium.envs.registration.EnvSpec | None:
    """Return what a package knows by a name that declares worlds to Gymnasium, which no longer asks them itself."""
    _load_packages()
    return gymnasium.registry.get(id)


@cache
def _load_packages() -> None:
    """Let all packages that declare worlds to Gymnasium register them, once."""
    groups = sorted(group for group in entry_points().groups if group.startswith("gymnasium.envs"))
    for entry in (entry for group in groups for entry in entry_points(group=group)):
        try:
            entry.load()()
        except Exception as error:  # that package may have nothing to do with what is asked for
            warnings.warn(f"{_distribution(entry)} does not load its worlds: {error}", stacklevel=2)


def _load(id: str, entry: EntryPoint) -> Factory:
    """Import a plug-in."""
    try:
        factory = entry.load()
    except Exception as error:
        raise ImportError(
            f"{id!r} does not load: {entry.value} of the package {_distribution(entry)} raised "
            f"{type(error).__name__}: {error}. Repair or uninstall that package; all other worlds work."
        ) from error
    return _callable(id, factory)


def _import(id: str) -> Factory:
    """Import what `module:function` names."""
    module, _, attribute = id.partition(":")
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.split(".")[0] and not module.startswith(f"{error.name}."):
            raise  # the module is there, but not something that it imports
        raise ImportError(f"{id!r}: there is no module {module!r}. Is it installed, or on PYTHONPATH?") from error
    if not hasattr(found, attribute):
        public = [name for name in dir(found) if not name.startswith("_")]
        raise ValueError(f"{id!r}: the module {module} has no {attribute!r}.{_near(attribute, public)}")
    return _callable(id, getattr(found, attribute))


def _callable(id: str, factory: Any) -> Factory:
    if not callable(factory):
        raise TypeError(f"{id!r} is {factory!r}: expected a function that returns an Env or a VectorEnv.")
    checked: Factory = factory
    return checked


def _maniskill(id: str, device: str, options: dict[str, Any]) -> Source:
    """Return ManiSkill's worlds: on a CPU single ones, on a GPU all in one simulation."""
    if importlib.util.find_spec("mani_skill") is None:
        raise ImportError(f"{id} needs ManiSkill: pip install 'palaestra[maniskill]'.")
    from palaestra.envs.manipulation import maniskill

    task = id.removeprefix(_MANISKILL)
    _check_options(id, options, [name for name in _parameters(maniskill.ManiSkillFactory) if name != "task"])
    if device != "cpu":
        return Source(id, vector=lambda count: maniskill.vector_env(task, count, device, **options))
    success = "info['success']" if task in maniskill.TASKS else None  # else found out by a world made for it
    return Source(id, single=maniskill.env_factory(task, **options), success=success)


def _parameters(factory: Callable[..., object]) -> dict[str, inspect.Parameter]:
    """Return a factory's parameters by name; of a Gymnasium id, those of the class behind it and `make`'s own."""
    if isinstance(factory, partial) and factory.func is _gymnasium:
        entry = factory.args[0].entry_point
        creator = gymnasium.envs.registration.load_env_creator(entry) if isinstance(entry, str) else entry
        limit = inspect.signature(gymnasium.make).parameters["max_episode_steps"]
        return {"max_episode_steps": limit} | _parameters(creator)
    return dict(inspect.signature(factory).parameters)


def _check_options(id: str, options: Collection[str], accepted: dict[str, inspect.Parameter] | Iterable[str]) -> None:
    kinds = accepted.values() if isinstance(accepted, dict) else ()
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in kinds):
        return
    valid = [name for name in accepted if name not in (*_COUNTS, "device", "self")]
    for name in options:
        if name not in valid:
            listed = f"Its options are {', '.join(valid)}." if valid else "It has no options."
            raise ValueError(f"{id} has no option {name!r}.{_near(name, valid)} {listed}")


def _check_sizes(id: str, count: int, chunk: int, workers: int | None, batch: int | None) -> None:
    for name, size in (("count", count), ("chunk", chunk), ("workers", workers), ("batch", batch)):
        if size is None and name in ("workers", "batch"):
            continue
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise ValueError(f"{id}: {name} is {size!r}, expected an integer of at least 1.")
    if batch is not None and batch > count:
        raise ValueError(f"{id}: batch is {batch}, but there are only {count} rows (count={count}).")


def _check_device(id: str, device: str) -> None:
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise ValueError(f"{id}: device is {device!r}, expected 'cpu', 'cuda' or 'cuda:N'.") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"{id}: device is {device!r}, but torch finds no CUDA device here. Use device='cpu'.")


def _refuse_device(id: str, device: str) -> None:
    if device != "cpu":
        raise ValueError(f"{id} is simulated on the CPU alone, but device is {device!r}. Use device='cpu'.")


def _unknown(id: str) -> str:
    known = names()
    near = _near(id, [*known, *gymnasium.registry], [name for name in (_MANISKILL + id,) if name in known])
    return (
        f"there is no world {id!r}.{near} `palaestra list` lists all; Gymnasium's ids and 'module:function' are "
        "worlds too."
    )


def _near(wrong: str, right: Iterable[str], first: Iterable[str] = ()) -> str:
    """Return " Did you mean …?", or nothing where no name is near."""
    near = [*first] or difflib.get_close_matches(wrong, list(right), n=3, cutoff=0.6)
    return f" Did you mean {' or '.join(repr(name) for name in near)}?" if near else ""


def _distribution(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else "(unknown)"


def _where(factory: Factory) -> str:
    module = getattr(factory, "__module__", type(factory).__module__)
    return f"{module}:{getattr(factory, '__qualname__', repr(factory))}"
