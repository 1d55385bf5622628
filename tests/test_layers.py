"""The house's rules, read from the source: layers, lazy heavy imports, unsafe calls, sizes, addresses."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = ("envs", "agents", "rewards", "launch")
"""From the bottom up: each may import itself and those before it."""
HEAVY = frozenset(
    {"mani_skill", "sapien", "h5py", "pyarrow", "av", "stable_baselines3", "wandb", "trackio", "rliable"}
    | {"matplotlib", "imageio", "tensorboard", "transformers", "peft", "open_clip", "torchvision", "PIL"}
    | {"fastapi", "starlette", "uvicorn", "httpx", "prometheus_client", "ray", "openai", "litserve"}
)
BACK_ROOMS = {
    "agents/baselines.py": {"stable_baselines3"},
    "envs/driving/scenery.py": {"PIL"},
    "envs/manipulation/quick.py": {"mani_skill", "sapien"},
    "launch/server/protocol.py": {"uvicorn"},
    "launch/benches/litserve_echo.py": {"litserve"},
    "launch/benches/ray_serve_echo.py": {"ray"},
}
"""Files that are about one package, or subclass its classes: they may import it, and are imported inside functions."""
PICKLES = frozenset(["pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"])
SLOW_TO_START = frozenset({"torch", "gymnasium", "numpy", "scipy"}) | HEAVY
"""What the command line may not import before it knows what is asked."""
MOST_LINES = {"file": 400, "function": 60}

SOURCES = sorted(path for layer in LAYERS for path in (ROOT / layer).rglob("*.py"))
TEXTS = sorted(
    {path for pattern in ("*.toml", "*.txt", "*.md", "Makefile") for path in ROOT.glob(pattern)}
    | {path for path in (ROOT / ".ci").glob("*") if path.is_file()}
    | set((ROOT / "tests").rglob("*.py"))
    | {path for path in (ROOT / "results").rglob("*") if path.suffix in (".json", ".jsonl", ".md", ".py", ".html")}
    | set(SOURCES)
)

ADDRESSES = {
    "a package registry's host": re.compile(
        r"py(?:pi|thonhosted)\.(?:org|io)|npm(?:js)\.(?:org|com)|deb\.(?:debian)\.|download\.(?:pytorch)\.|index[-]url"
    ),
    "a path of somebody's machine": re.compile(r"(?<![\w.])/(?:work|tmp|root|home|Users)/"),
}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def module_of(path: Path) -> str:
    """Return the module that a file is: agents/flow/__init__.py is palaestra.agents.flow."""
    parts = ("palaestra", *path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(node: ast.Import | ast.ImportFrom, package: str) -> list[str]:
    """Return the absolute names that an import statement may load; `package` resolves relative ones."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    base = node.module or ""
    if node.level:
        anchor = package.split(".")[: len(package.split(".")) - node.level + 1]
        base = ".".join([*anchor, base] if base else anchor)
    return [base, *(f"{base}.{alias.name}" for alias in node.names)]


def imports(tree: ast.AST, package: str, everywhere: bool) -> Iterator[tuple[int, str]]:
    """Yield (line, name) of imports: all of them, or only those that run when the module is imported."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from ((node.lineno, name) for name in imported(node, package))
        elif not everywhere and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        elif not everywhere and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for alternative in node.orelse:
                yield from imports(ast.Module([alternative], []), package, everywhere)
        else:
            yield from imports(node, package, everywhere)


def package_of(path: Path) -> str:
    module = module_of(path)
    return module if path.name == "__init__.py" else module.rpartition(".")[0]


def wrong_layers(source: str, layer: str, package: str) -> list[str]:
    """Return the imports that go up, or that name a layer without its package."""
    allowed = LAYERS[: LAYERS.index(layer) + 1]
    found = []
    for line, name in imports(ast.parse(source), package, everywhere=True):
        parts = name.split(".")
        upwards = parts[0] == "palaestra" and len(parts) > 1 and parts[1] in LAYERS and parts[1] not in allowed
        if upwards or parts[0] in LAYERS:
            found.append(f"{line}: {name}")
    return found


def heavy_at_top(source: str, package: str, allowed: frozenset[str] | set[str] = frozenset()) -> list[str]:
    """Return the heavy packages, and the back rooms, that importing the module would load."""
    rooms = {"palaestra." + name.removesuffix(".py").replace("/", ".") for name in BACK_ROOMS}
    found = imports(ast.parse(source), package, everywhere=False)
    return [f"{line}: {name}" for line, name in found if name in rooms or name.split(".")[0] in HEAVY - allowed]


def unsafe(source: str) -> list[str]:
    """Return pickles, torch.load, shell=True, eval and their kin."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            found += [f"{node.lineno}: {name}" for name in imported(node, "") if name.split(".")[0] in PICKLES]
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        if called in ("eval", "exec", "torch.load", "os.system", "os.popen"):
            found.append(f"{node.lineno}: {called}(")
        for keyword in node.keywords:
            if keyword.arg in ("shell", "allow_pickle") and ast.unparse(keyword.value) != "False":
                found.append(f"{node.lineno}: {keyword.arg}={ast.unparse(keyword.value)}")
    return found


def too_long(source: str) -> list[str]:
    """Return the functions that do not fit on a screen, and the file if it is too long."""
    count = len(source.splitlines())
    found = [f"the file has {count} lines"] if count >= MOST_LINES["file"] else []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length >= MOST_LINES["function"]:
                found.append(f"{node.name} has {length} lines")
    return found


def offenders(found: dict[str, list[str]]) -> str:
    return "\n".join(f"{name}: {line}" for name, lines in found.items() for line in lines)


def test_every_layer_has_source() -> None:
    """The tests below read something."""
    assert {path.relative_to(ROOT).parts[0] for path in SOURCES} == set(LAYERS)


def test_imports_go_one_way() -> None:
    """envs ← agents ← rewards ← launch, inside functions and type checks too."""
    found = {
        name_of(path): wrong_layers(path.read_text(), path.relative_to(ROOT).parts[0], package_of(path))
        for path in SOURCES
    }
    assert not offenders(found), offenders(found)


def test_heavy_packages_are_imported_where_they_are_used() -> None:
    """No simulator, file format, tracker or plotter is loaded by importing a module of ours that others need."""
    found = {
        name_of(path): heavy_at_top(path.read_text(), package_of(path), BACK_ROOMS.get(name_of(path), set()))
        for path in SOURCES
    }
    assert not offenders(found), offenders(found)


def test_nothing_unsafe_is_called() -> None:
    """No pickle, torch.load, eval, exec or shell in any package."""
    found = {name_of(path): unsafe(path.read_text()) for path in SOURCES}
    assert not offenders(found), offenders(found)


def test_files_and_functions_stay_short() -> None:
    """Files under 400 lines, functions under 60."""
    found = {name_of(path): too_long(path.read_text()) for path in SOURCES}
    assert not offenders(found), offenders(found)


def test_no_addresses_of_registries_or_machines() -> None:
    """The repository builds anywhere: it names no registry host and no path of the machine it was written on."""
    found = {}
    for path in TEXTS:
        lines = enumerate(path.read_text().splitlines(), start=1)
        found[name_of(path)] = [
            f"{number}: {what}: {line.strip()[:80]}"
            for number, line in lines
            for what, pattern in ADDRESSES.items()
            if pattern.search(line)
        ]
    assert not offenders(found), offenders(found)


def test_command_line_starts_light() -> None:
    """Nothing that `palaestra --help` loads imports torch, gymnasium or numpy, through whatever chain of modules."""
    modules = {module_of(path): path for path in SOURCES}
    reached, waiting, slow = set(), [("palaestra.launch.cli", "palaestra.launch.cli")], []
    while waiting:
        module, chain = waiting.pop()
        if module not in modules or module in reached:
            continue
        reached.add(module)
        path = modules[module]
        for line, name in imports(ast.parse(path.read_text()), package_of(path), everywhere=False):
            if name.split(".")[0] in SLOW_TO_START:
                slow.append(f"{chain}:{line} imports {name}")
            parts = name.split(".")
            waiting += [(".".join(parts[:n]), f"{chain} → {name}") for n in range(2, len(parts) + 1)]
    assert "palaestra.launch.cli" in reached, "launch/cli.py is missing"
    assert not slow, "\n".join(slow)


@pytest.mark.parametrize(
    ("source", "layer", "count"),
    [
        ("import palaestra.agents.core", "envs", 1),
        ("from palaestra.launch import train", "rewards", 2),
        ("def f():\n    from palaestra.rewards import core", "agents", 2),
        ("from ..launch import train", "agents", 2),
        ("import envs.core", "agents", 1),
        ("from palaestra.envs.core import Step\nfrom . import core", "agents", 0),
        ("import palaestra.envs.core, palaestra.agents.core, palaestra.rewards.core", "launch", 0),
    ],
)
def test_wrong_layers_are_seen(source: str, layer: str, count: int) -> None:
    """The reader of layers finds what it is there to find, and nothing else."""
    assert len(wrong_layers(source, layer, f"palaestra.{layer}")) == count


@pytest.mark.parametrize(
    ("source", "heavy"),
    [
        ("import h5py", True),
        ("try:\n    from matplotlib import pyplot\nexcept ImportError:\n    pass", True),
        ("class A:\n    import wandb", True),
        ("if True:\n    import av", True),
        ("def f():\n    import h5py", False),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import h5py", False),
        ("import torch, numpy", False),
        ("from palaestra.agents import baselines", True),
        ("def f():\n    from palaestra.agents.baselines import Baseline", False),
    ],
)
def test_heavy_imports_are_seen(source: str, heavy: bool) -> None:
    """The reader of heavy imports knows what runs at import and what does not."""
    assert bool(heavy_at_top(source, "palaestra.envs")) == heavy


@pytest.mark.parametrize(
    ("source", "bad"),
    [
        ("import pickle", True),
        ("from cloudpickle import dumps", True),
        ("x = torch.load('a.pt')", True),
        ("subprocess.run('ls', shell=True)", True),
        ("np.load('a.npy', allow_pickle=flag)", True),
        ("eval('1')", True),
        ("policy.eval()", False),
        ("np.load('a.npy', allow_pickle=False)  # never pickle", False),
    ],
)
def test_unsafe_calls_are_seen(source: str, bad: bool) -> None:
    """The reader of unsafe calls tells eval(…) from policy.eval()."""
    assert bool(unsafe(source)) == bad


def test_long_functions_are_seen() -> None:
    """A function of 60 lines is one too many, one of 59 is not; likewise files of 400."""
    assert too_long("def f():\n" + "    pass\n" * 59) == ["f has 60 lines"]
    assert too_long("def f():\n" + "    pass\n" * 58) == []
    assert too_long("x = 1\n" * 400) == ["the file has 400 lines"]
    assert too_long("x = 1\n" * 399) == []


def test_addresses_are_seen() -> None:
    """The patterns match what they are there to find, and not its neighbours."""
    registry, machine = ADDRESSES.values()
    assert registry.search("https://" + "py" + "pi.org/simple") and registry.search("--index" + "-url x")
    assert machine.search("'/" + "tmp/x'") and machine.search("/" + "home/me")
    assert not machine.search("./tmp/x") and not machine.search("frame/" + "work/x")
