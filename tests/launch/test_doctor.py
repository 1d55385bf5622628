import importlib.util
import subprocess
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from palaestra.launch import doctor as module
from palaestra.launch.doctor import MANISKILL, Finding, doctor


def test_doctor_looks_at_everything_and_a_machine_without_vulkan_is_told_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("VK_ICD_FILENAMES", "/nowhere.json")
    findings = {finding.name: finding for finding in doctor(tmp_path / "runs")}
    assert list(findings)[:2] == ["python", "core packages"]
    extras = {"maniskill", "lerobot", "sb3", "tracking", "stats", "dev"}
    rest = {"torch device", "maniskill rendering", "run folder", "ffmpeg", "chromium"}
    assert findings.keys() >= {f"extra {name}" for name in extras} | rest
    for name in ("python", "core packages", "torch device", "run folder", "ffmpeg"):
        assert findings[name].state == "ok", findings[name]
    assert "torch 2." in findings["core packages"].found and findings["ffmpeg"].found.startswith("ffmpeg version")
    assert all(finding.fix for finding in findings.values() if finding.state != "ok")
    assert not any(finding.fix for finding in findings.values() if finding.state == "ok")
    assert not (tmp_path / "runs").exists()
    if importlib.util.find_spec("mani_skill"):
        rendering = findings["maniskill rendering"]
        assert rendering.state == "warn" and "no Vulkan device" in rendering.found
        assert "apt-get install chromium" in rendering.fix


def test_a_finding_is_a_line_and_its_fix_another() -> None:
    lines = str(Finding("ffmpeg", "missing", "no videos", "pip install it")).splitlines()
    assert lines[0].split() == ["missing", "ffmpeg", "no", "videos"] and lines[1].strip() == "→ pip install it"
    assert len(str(Finding("python", "ok", "3.11")).splitlines()) == 1


def test_a_probe_that_crashes_hangs_or_raises_is_told_apart_and_harms_nobody() -> None:
    assert module._probe("import json; print('noise'); print(json.dumps({'a': 1}))") == {"a": 1}
    assert module._probe("import os; os.abort()") == {"error": "it died of SIGABRT"}
    assert module._probe("import time; time.sleep(60)", patience=0.5) == {"error": "no answer for 0.5 s"}
    assert module._probe("raise ValueError('why')") == {"error": "ValueError: why"}
    assert module._probe("import sys; sys.exit(3)") == {"error": "it ended with 3"}


def test_packages_that_are_missing_or_too_old_are_named_with_the_command() -> None:
    some = module._group("sb3", [Requirement("numpy>=1"), Requirement("no-such-package>=2")])
    assert (some.state, some.fix) == ("warn", 'pip install "palaestra[sb3]"')
    assert some.found.startswith("no no-such-package, numpy ")
    none = module._group("sb3", [Requirement("no-such-package")])
    assert none.state == "missing"
    old = module._group("", [Requirement("numpy>=999"), Requirement("torch")])
    assert old.state == "missing" and ", which must be >=999" in old.found and old.fix == "pip install palaestra"
    assert module._group("", [Requirement("numpy>=1")]).state == "ok"


def test_maniskill_that_is_missing_or_does_not_start() -> None:
    absent = module._maniskill(module._probe(MANISKILL.replace("mani_skill", "mani_skill_absent")))
    assert absent.state == "missing" and "does not start" in absent.found and "mani_skill_absent" in absent.found
    assert "not installed" in module._maniskill({"error": "ModuleNotFoundError: No module named 'mani_skill'"}).found
    crashed = module._maniskill({"error": "it died of SIGSEGV"})
    assert crashed.state == "missing" and "SIGSEGV" in crashed.found
    assert module._maniskill({"renderer": "card (cuda)", "fix": "x"}) == Finding(
        "maniskill rendering", "ok", "card (cuda)"
    )


def test_torch_that_does_not_start_is_missing() -> None:
    finding = module._torch({"error": "it died of SIGILL"})
    assert finding.state == "missing" and "SIGILL" in finding.found and "pip install" in finding.fix
    assert "H200, H200" in module._torch({"threads": 4, "gpus": ["H200", "H200"]}).found


def test_a_run_folder_without_room_or_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    finding = module._disk(tmp_path / "file" / "runs")
    assert finding.state == "missing" and f"{tmp_path / 'file'} is no folder" in finding.found
    assert "--run FOLDER" in finding.fix
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small file system can only be mounted by root")
    try:
        finding = module._disk(small / "runs")
        assert finding.state == "warn" and finding.found.startswith("0.0 GiB free") and "free 2.0 GiB" in finding.fix
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_machine_without_a_browser_is_told_which_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert module._browser().fix == "apt-get install chromium"
    (tmp_path / "google-chrome").touch(mode=0o755)
    assert module._browser() == Finding("chromium", "ok", "google-chrome")
