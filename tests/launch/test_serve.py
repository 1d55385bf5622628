"""`palaestra serve`: what is refused before anything is loaded, and the command as a user runs it."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from palaestra.launch.serve import ModelSpec, ServeOptions, check_host, open_policy, read_token, serve
from palaestra.launch.server.run import bind

TOKEN = "correct-horse-battery-staple"


def test_a_model_s_options_are_read() -> None:
    spec = ModelSpec.parse("judge=openai:http://127.0.0.1:8001/v1?model=org/a:b&timeout=2.5&retries=3&x=")
    assert (spec.name, spec.kind, spec.path) == ("judge", "openai", "http://127.0.0.1:8001/v1")
    assert spec.options == {"model": "org/a:b", "timeout": 2.5, "retries": 3, "x": ""}
    assert ModelSpec.parse("a=echo:") == ModelSpec("a", "echo", "", {})


@pytest.mark.parametrize("text", ["", "a", "a=", "=echo:", "a=echo", "a=:x"])
def test_models_of_another_form_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="NAME=ENGINE:PATH"):
        ModelSpec.parse(text)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"model": ()}, "at least one --model"),
        ({"model": ("a=echo:",), "port": 70000}, "--port is 70000"),
        ({"model": ("a=echo:",), "max_pixels": 0}, "--max-pixels is 0"),
        ({"model": ("a=echo:", "a=echo:")}, "two models are called 'a'"),
        ({"model": ("a=ecko:",)}, "Did you mean 'echo'"),
        ({"model": ("a=echo:?dela=1",)}, "Did you mean 'delay'"),
        ({"model": ("a=echo:",), "max_batch": 0}, "max_batch is 0"),
        ({"model": ("a=echo:",), "host": "0.0.0.0"}, "there is no token"),
        ({"model": ("a=echo:",), "host": "no such host"}, "is no address"),
    ],
)
def test_wrong_options_are_refused_with_the_fix(
    options: dict[str, object], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PALAESTRA_TOKEN", raising=False)
    with pytest.raises(ValueError, match=reason):
        serve(ServeOptions(**({"port": 0} | options)))  # type: ignore[arg-type]


def test_other_machines_are_let_in_with_a_token_only() -> None:
    for host in ("127.0.0.1", "localhost", "::1", "127.8.8.8"):
        check_host(host, None)
    for host in ("0.0.0.0", "::", "192.0.2.1"):
        check_host(host, TOKEN)
        with pytest.raises(ValueError, match="PALAESTRA_TOKEN"):
            check_host(host, None)


@pytest.mark.parametrize("text", ["", "short", "with a space in it", "line\nbreak-in-the-middle", "ümlauts-no-ascii"])
def test_what_is_no_token_is_refused(tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text(text)
    with pytest.raises(ValueError, match="holds no token"):
        read_token(tmp_path / "token")
    monkeypatch.setenv("PALAESTRA_TOKEN", text)
    with pytest.raises(ValueError, match="PALAESTRA_TOKEN holds no token"):
        read_token(None)


def test_the_token_comes_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    monkeypatch.setenv("PALAESTRA_TOKEN", "another-long-token-indeed")
    assert read_token(tmp_path / "token") == TOKEN
    assert read_token(None) == "another-long-token-indeed"
    monkeypatch.delenv("PALAESTRA_TOKEN")
    assert read_token(None) is None


def test_a_taken_address_is_said() -> None:
    with bind("127.0.0.1", 0) as taken, pytest.raises(OSError, match="--port 0 takes any free port"):
        bind("127.0.0.1", taken.getsockname()[1])


@pytest.mark.parametrize("stop", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_the_command_serves_until_it_is_told_to_stop(tmp_path: Path, stop: signal.Signals) -> None:
    (tmp_path / "token").write_text(TOKEN)
    words = ["serve", "--model", "a=echo:", "--model", "b=echo:?delay=0.01", "--port", "0"]
    words += ["--token-file", str(tmp_path / "token"), "--weights-from", str(tmp_path)]
    process = subprocess.Popen(
        [sys.executable, "-m", "palaestra.launch.cli", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    try:
        assert process.stdout is not None
        found = re.fullmatch(r"serving a, b at (http://127\.0\.0\.1:\d+)/v1\n", process.stdout.readline())
        assert found is not None
        headers = {"Authorization": f"Bearer {TOKEN}"}
        models = httpx.get(f"{found[1]}/v1/models", headers=headers, trust_env=False).json()
        assert [model["id"] for model in models["data"]] == ["a", "b"]
        process.send_signal(stop)
        _, errors = process.communicate(timeout=30)
        assert "Traceback" not in errors
        assert process.returncode == (130 if stop == signal.SIGINT else -signal.SIGTERM)
    finally:
        process.kill()
        process.wait()


def test_a_run_s_policy_is_served(tmp_path: Path) -> None:
    """What a trained policy does over HTTP is what it does beside its trainer, and new weights are taken over."""
    import torch

    from palaestra.agents.flow.imitation import ImitationConfig
    from palaestra.agents.flow.pi_rl import PiRLConfig
    from palaestra.agents.vlm.core import Act, Action, WeightsError
    from palaestra.launch.config import DemonstrationConfig, PolicyConfig, Recipe, WorldConfig
    from palaestra.launch.train import load_policy, make_worlds, train

    recipe = Recipe(
        name="small",
        world=WorldConfig(id="toy/reach-v0", count=8, chunk=4),
        policy=PolicyConfig(steps=2, hidden=32, layers=1),
        demonstrations=DemonstrationConfig(episodes=2),
        imitation=ImitationConfig(steps=4),
        pi_rl=PiRLConfig(batch=32, epochs=1),
        iterations=1,
        decisions=2,
        every=1,
        episodes=2,
        final_episodes=2,
        stop_at=2.0,
    )
    run = train(recipe, tmp_path / "run")
    engine = open_policy(str(run))
    worlds = make_worlds(recipe, 1)
    try:
        observation = worlds.reset(seed=0).observation
        policy = load_policy(run, recipe, worlds.spec)
    finally:
        worlds.close()
    torch.manual_seed(0)
    (answer,) = engine.answer([Act(observation)])
    torch.manual_seed(0)
    expected = policy.act(observation).action
    assert isinstance(answer, Action) and isinstance(expected, torch.Tensor)
    assert isinstance(answer.action, torch.Tensor) and torch.equal(answer.action, expected[0])
    oldest = sorted((run / "checkpoints").iterdir())[0]
    assert engine.load(oldest).version != engine.version
    with pytest.raises(WeightsError):
        engine.load(tmp_path)
