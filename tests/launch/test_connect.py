"""Runs that ask a server: it is there at the start, may die in the middle, and is asked again when it is back."""

import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from palaestra.agents.found_rl.config import FoundRLConfig
from palaestra.agents.vlm.core import ServerLostError, UnknownModelError
from palaestra.agents.vlm.faults import TokenError
from palaestra.agents.vlm.remote import RemoteClient
from palaestra.launch.config import FoundRLRecipe, TeacherConfig, WorldConfig
from palaestra.launch.connect import connect_to
from palaestra.launch.found_rl import FoundRLRun
from palaestra.launch.serve import TOKEN_VARIABLE, ModelSpec, ServeOptions, open_app
from palaestra.launch.server.run import background
from palaestra.launch.track import read_metrics
from palaestra.launch.train import train

TOKEN = "correct-horse-battery-staple"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


class Server:
    """`palaestra serve` as a process that can be killed and started again at the same address."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        words = ["serve", "--port", str(self.port), "--model", "teacher=echo:"]
        command = [sys.executable, "-m", "palaestra.launch.cli", *words]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline().startswith("serving teacher")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def test_training_goes_on_without_its_server_and_asks_it_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server()
    iterate = FoundRLRun.iterate

    def with_an_accident(run: FoundRLRun) -> dict[str, float]:
        assert isinstance(run.client, RemoteClient)
        if run.iteration == 1:
            server.kill()
        if run.iteration == 3:
            server.start()
            end = time.monotonic() + 20
            while run.client.away and time.monotonic() < end:
                time.sleep(0.05)
        return iterate(run)

    monkeypatch.setattr(FoundRLRun, "iterate", with_an_accident)
    options: Any = {"vehicles": 2, "walkers": 0, "map_count": 1, "max_episode_steps": 12}
    recipe = FoundRLRecipe(
        world=WorldConfig(id="driving/arterial-v0", count=6, chunk=3, options=options),
        learner=FoundRLConfig(guidance="vmr+awag", hidden=16, batch=16, warmup=18, updates=1, capacity=600),
        teacher=TeacherConfig(server=server.url, delay=None),
        iterations=5, decisions=4, every=5, episodes=6, final_episodes=6, videos=0,
    )  # fmt: skip
    try:
        rows = read_metrics(train(recipe, tmp_path / "run") / "metrics.jsonl")[1:]
    finally:
        server.kill()
    asked, labelled, failed = ([row[f"advice/{name}"] for row in rows] for name in ("asked", "labelled", "failed"))
    assert len(rows) == 5 and asked == sorted(asked) and asked[4] > asked[2] > asked[0] > 0
    assert labelled[0] > 0 and failed[0] == 0
    assert failed[2] > failed[0] and labelled[2] - labelled[1] == 0, "while it is away asks fail, and are counted"
    assert labelled[4] > labelled[2], "and when it is back it teaches again"


def test_a_run_begins_with_its_model_there(monkeypatch: pytest.MonkeyPatch) -> None:
    options = ServeOptions(model=("teacher=echo:",))
    with background(open_app(options, [ModelSpec.parse("teacher=echo:")], TOKEN)) as url:
        monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
        with pytest.raises(TokenError, match="no token"):
            connect_to(url, "teacher")
        monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
        with pytest.raises(UnknownModelError, match="Did you mean 'teacher'"):
            connect_to(url, "teachr")
        with connect_to(url, "teacher") as client:
            assert client.models() == {"teacher": "echo"}
    with pytest.raises(ServerLostError, match="cannot be reached"):
        connect_to(f"http://127.0.0.1:{free_port()}", "teacher")
