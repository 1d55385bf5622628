"""The wheel: it holds every file, imports from anywhere, and starts fast."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("envs", "agents", "rewards", "launch")
BACK_ROOMS = {"agents/baselines.py", "envs/manipulation/quick.py"}
"""Files that are about one heavy package and import it on purpose; see tests/test_layers.py."""


def run(code: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in another directory, without the environment's own import paths."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, env=kept | environment, capture_output=True, text=True, timeout=120
    )


def python_files() -> list[str]:
    return sorted(str(path.relative_to(ROOT)) for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a clean copy, with the tools that are installed and no network."""
    copy = tmp_path_factory.mktemp("copy")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, copy / name)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(copy / "dist"), str(copy)]
    built = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = (copy / "dist").glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel alone into a folder of its own."""
    target = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", str(target), str(wheel)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return target


def test_wheel_holds_every_file(wheel: Path) -> None:
    """Every .py of the four folders and each folder's py.typed are in the wheel, and no module besides."""
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {f"palaestra/{name}" for name in python_files()}
    missing = expected - names
    assert not missing, f"list their folders under tool.setuptools.packages in pyproject.toml: {sorted(missing)}"
    assert {name for name in names if name.endswith(".py")} == expected
    assert {f"palaestra/{folder}/py.typed" for folder in FOLDERS} <= names


def test_wheel_names_the_command(wheel: Path) -> None:
    """The wheel installs the `palaestra` command."""
    with zipfile.ZipFile(wheel) as archive:
        (entry,) = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
        assert "palaestra = palaestra.launch.cli:main" in archive.read(entry).decode()


def test_every_module_imports_from_elsewhere(installed: Path, tmp_path: Path) -> None:
    """All modules import from the installed wheel, in another directory, without loading anything heavy."""
    modules = [
        "palaestra." + name.removesuffix(".py").replace(os.sep, ".").removesuffix(".__init__")
        for name in python_files()
        if name not in BACK_ROOMS
    ]
    done = run(
        "import importlib, sys\n"
        f"for name in {modules!r}:\n"
        "    path = importlib.import_module(name).__file__\n"
        f"    assert path.startswith({str(installed)!r}), path\n"
        "heavy = {'mani_skill', 'sapien', 'stable_baselines3', 'wandb', 'matplotlib', 'imageio', 'tensorboard'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n",
        tmp_path,
        PYTHONPATH=str(installed),
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("folder", FOLDERS)
def test_plain_import_is_refused(folder: str) -> None:
    """From the repository's root `import envs` would be a second copy: the guard says what to write instead."""
    done = run(f"import {folder}", ROOT)
    assert done.returncode != 0
    assert f"this package is palaestra.{folder}" in done.stderr
    assert f"import palaestra.{folder}" in done.stderr


def test_command_line_imports_fast(tmp_path: Path) -> None:
    """Importing `palaestra.launch.cli` takes under half a second: the best of three processes."""
    code = "import time\nbefore = time.perf_counter()\nimport palaestra.launch.cli\nprint(time.perf_counter() - before)"
    seconds = []
    for _ in range(3):
        done = run(code, tmp_path)
        assert done.returncode == 0, done.stderr
        seconds.append(float(done.stdout))
    assert min(seconds) < 0.5, f"it took {min(seconds):.2f} s"
