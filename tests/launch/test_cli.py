"""The command line: what a wrong word is told, and that help is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from palaestra.launch.cli import COMMANDS, main


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in COMMANDS)


def test_a_wrong_command_gets_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trian"]) == 2
    assert "Did you mean 'train'?" in capsys.readouterr().err


def test_a_wrong_recipe_gets_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "reahc"]) == 1
    assert "Did you mean 'reach'" in capsys.readouterr().err


def test_an_option_that_nothing_reads_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["train", "reach", "--pi-rl.clp", "0.1"])
    assert stopped.value.code == 2
    assert "--pi-rl.clip" in capsys.readouterr().err


def test_every_field_has_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["train", "reach", "--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    assert "--pi-rl.level" in shown and "Noise level a of sde and cps" in shown


def test_no_run_is_told_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(tmp_path / "nothing")]) == 1
    assert "config.json" in capsys.readouterr().err


def test_list_shows_worlds_recipes_and_benches(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    shown = capsys.readouterr().out
    assert all(entry in shown for entry in ("toy/reach-v0", "maniskill/PushCube-v1", "pi-rl-push-cube", "worlds"))


def test_check_passes_a_world_that_keeps_the_contract(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "toy/reach-v0"]) == 0
    assert capsys.readouterr().out.strip()


def test_a_wrong_world_gets_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "toy/raech-v0"]) == 1
    assert "toy/reach-v0" in capsys.readouterr().err
