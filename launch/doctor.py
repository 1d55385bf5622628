"""`palaestra doctor`: what this machine can run, and the command that mends what it cannot.

Whatever may crash, hang or take seconds to import is asked in a process of its own.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any, Literal

from packaging.requirements import Requirement

State = Literal["ok", "warn", "missing"]
OLDEST = (3, 11)
"""The Python that palaestra needs."""
ROOM = 2 * 2**30
"""Bytes that a run with its checkpoints and videos should find free."""
PATIENCE = 120.0
"""Seconds after which a probe counts as hung."""
BROWSERS = ("chromium", "chromium-browser", "google-chrome")

TORCH = """
import json, torch
cuda = torch.cuda.is_available()
print(json.dumps({
    "threads": torch.get_num_threads(),
    "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if cuda else [],
}))
"""
MANISKILL = """
import json
import mani_skill
from palaestra.envs.manipulation.vulkan import FIX, find_renderer
renderer = find_renderer()
print(json.dumps({"renderer": renderer and f"{renderer.name} ({renderer.device})", "fix": FIX}))
"""
FFMPEG = """
import json, subprocess
from imageio_ffmpeg import get_ffmpeg_exe
done = subprocess.run([get_ffmpeg_exe(), "-version"], capture_output=True, text=True, check=True)
print(json.dumps({"version": done.stdout.split("Copyright")[0].strip()}))
"""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    name: str
    """What was looked at."""
    state: State
    """`ok`; `warn` where something is less than it could be; `missing` where something cannot be done."""
    found: str
    """What was found."""
    fix: str = ""
    """The command that mends it; empty where nothing is to be mended."""

    def __str__(self) -> str:
        line = f"{self.state:8}{self.name:20}{self.found}"
        return f"{line}\n{'':28}→ {self.fix}" if self.fix else line


def doctor(folder: Path = Path("runs")) -> list[Finding]:
    """Look at everything that palaestra can use, in about as long as the slowest import takes.

    Args:
        folder: where runs are to go.
    """
    with ThreadPoolExecutor(3) as pool:
        torch, mani_skill, ffmpeg = (pool.submit(_probe, code) for code in (TORCH, MANISKILL, FFMPEG))
        return [
            _python(),
            *_packages(),
            _torch(torch.result()),
            _maniskill(mani_skill.result()),
            _disk(folder),
            _ffmpeg(ffmpeg.result()),
            _browser(),
        ]


def _python() -> Finding:
    found = platform.python_version()
    if sys.version_info < OLDEST:
        needed = ".".join(map(str, OLDEST))
        return Finding("python", "missing", f"{found}, but {needed} is needed", f"python{needed} -m venv .venv")
    return Finding("python", "ok", f"{found} on {platform.system()} {platform.machine()}")


def _packages() -> list[Finding]:
    """Return a finding for the packages that are always needed, and one an extra."""
    groups: dict[str, list[Requirement]] = defaultdict(list)
    for line in requires("palaestra") or ():
        requirement = Requirement(line)
        extra = "" if requirement.marker is None else str(requirement.marker).partition('extra == "')[2].rstrip('"')
        if requirement.name != "palaestra":
            groups[extra].append(requirement)
    return [_group(extra, needed) for extra, needed in groups.items()]


def _group(extra: str, needed: list[Requirement]) -> Finding:
    """Return whether an extra's packages (or the core's, where `extra` is empty) are there and new enough."""
    found, wrong = [], []
    for requirement in needed:
        try:
            installed = version(requirement.name)
        except PackageNotFoundError:
            wrong.append(f"no {requirement.name}")
            continue
        found.append(f"{requirement.name} {installed}")
        if not requirement.specifier.contains(installed, prereleases=True):
            wrong.append(f"{found.pop()}, which must be {requirement.specifier}")
    name = f"extra {extra}" if extra else "core packages"
    text = ", ".join(wrong + found)
    if not wrong:
        return Finding(name, "ok", text)
    install = f'pip install "palaestra[{extra}]"' if extra else "pip install palaestra"
    return Finding(name, "warn" if found and extra else "missing", text, install)


def _torch(probe: Mapping[str, Any]) -> Finding:
    if "error" in probe:
        return Finding(
            "torch", "missing", f"it does not start: {probe['error']}", "pip install --force-reinstall torch"
        )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpus = ", ".join(probe["gpus"]) or "no GPU that torch can use: everything runs on the CPU"
    return Finding("torch device", "ok", f"{gpus}; {cores} cores, {probe['threads']} threads unless a recipe says")


def _maniskill(probe: Mapping[str, Any]) -> Finding:
    name = "maniskill rendering"
    install = 'pip install "palaestra[maniskill]"'
    if "No module named 'mani_skill'" in probe.get("error", ""):
        return Finding(name, "missing", "ManiSkill is not installed", install)
    if "error" in probe:
        return Finding(name, "missing", f"ManiSkill does not start: {probe['error']}", install)
    if probe["renderer"] is None:
        found = (
            "no Vulkan device: state observations only (built with inert stand-ins for SAPIEN's materials), no videos"
        )
        return Finding(name, "warn", found, probe["fix"])
    return Finding(name, "ok", probe["renderer"])


def _disk(folder: Path) -> Finding:
    """Return whether runs can be written and have room; the nearest folder that exists is looked at."""
    absolute = folder.absolute()
    there = next(parent for parent in (absolute, *absolute.parents) if parent.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        what = "no folder" if not there.is_dir() else "a folder that may not be written"
        return Finding(
            "run folder", "missing", f"{there} is {what}", "choose another: palaestra train RECIPE --run FOLDER"
        )
    free = shutil.disk_usage(there).free
    text = f"{free / 2**30:.1f} GiB free for {folder}"
    if free < ROOM:
        fix = f"free {(ROOM - free) / 2**30:.1f} GiB, or choose another: palaestra train RECIPE --run FOLDER"
        return Finding("run folder", "warn", text, fix)
    return Finding("run folder", "ok", text)


def _ffmpeg(probe: Mapping[str, Any]) -> Finding:
    if "error" in probe:
        return Finding("ffmpeg", "missing", f"no videos: {probe['error']}", 'pip install "imageio[ffmpeg]"')
    return Finding("ffmpeg", "ok", probe["version"])


def _browser() -> Finding:
    found = next((path for path in map(shutil.which, BROWSERS) if path), None)
    if found is None:
        text = "no browser: the report's test is skipped, and nothing renders on the CPU"
        return Finding("chromium", "warn", text, "apt-get install chromium")
    return Finding("chromium", "ok", Path(found).name)


def _probe(code: str, patience: float = PATIENCE) -> dict[str, Any]:
    """Run a program in a process of its own, and return the JSON of its last line, or {"error": why not}."""
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=patience)
    except subprocess.TimeoutExpired:
        return {"error": f"no answer for {patience:g} s"}
    if done.returncode < 0:
        return {"error": f"it died of {signal.Signals(-done.returncode).name}"}
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1]}
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer
