"""`palaestra serve`: options to models, models to a server."""

from __future__ import annotations

import ipaddress
import json
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import parse_qsl

import tyro

if TYPE_CHECKING:
    from palaestra.agents.vlm.batcher import Batcher
    from palaestra.agents.vlm.core import Engine
    from palaestra.launch.server.app import App

TOKEN_VARIABLE = "PALAESTRA_TOKEN"
"""The environment variable that holds the token, unless a file does."""


@dataclass(frozen=True)
class ServeOptions:
    """Serve models over HTTP with OpenAI's API, many asks in one batch; or a retriever with VRAG's search API."""

    model: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """NAME=ENGINE:PATH?option=value&…, once a model. Engines: transformers, open_clip, policy (PATH is a run, or a
    policy of LeRobot), openai (PATH is a server's address), echo. Quote it where it holds a question mark."""
    search: str = ""
    """A folder of pages (pictures and PDFs, texts beside them) to be searched at /search, or `tiny` or `documents` for
    the corpora that are rendered here."""
    host: str = "127.0.0.1"
    """Where to listen. Any address but this machine's own needs a token."""
    port: int = 8000
    """Where to listen; 0 takes a free one and prints it."""
    token_file: Path | None = None
    """A file that holds the token that clients must send; by default the environment variable PALAESTRA_TOKEN."""
    max_batch: int = 32
    """The most asks that a model answers at once."""
    max_wait: float = 0.0
    """Seconds that an ask may wait for companions while the model is idle."""
    max_queue: int = 1024
    """The most asks that wait for a model; further ones are refused (429)."""
    cache_mb: int = 0
    """Memory for answers that are kept, a model; 0 keeps none."""
    hang_seconds: float | None = None
    """After so long a batch counts as hung and its asks fail."""
    weights_from: Annotated[tuple[Path, ...], tyro.conf.UseAppendAction] = ()
    """A folder from which /v1/weights may load new weights (with a token); may be given more than once."""
    max_body_mb: int = 32
    """The largest body of a request."""
    max_held_mb: int = 1024
    """The most memory that all requests in progress may take, their pictures decoded."""
    max_pixels: int = 4096 * 4096
    """The most pixels of all pictures of a request."""
    drain_seconds: float = 30.0
    """That asks in progress have when the server is stopped."""
    threads: int = 1
    """Torch's threads."""

    def __post_init__(self) -> None:
        if not self.model and not self.search:
            raise ValueError(
                "serve needs at least one --model NAME=ENGINE:PATH, such as --model test=echo:, or --search FOLDER."
            )
        if not 0 <= self.port < 65536:
            raise ValueError(f"--port is {self.port}; it is 0 (any free one) to 65535.")
        for name in ("max_body_mb", "max_held_mb", "max_pixels", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} is {getattr(self, name)}; it must be at least 1.")


@dataclass(frozen=True)
class ModelSpec:
    """One `--model`."""

    name: str
    """What clients call it."""
    kind: str
    """Of its engine."""
    path: str
    """Of its weights."""
    options: Mapping[str, Any]
    """Of its engine."""

    @staticmethod
    def parse(text: str) -> ModelSpec:
        """Read NAME=ENGINE:PATH?option=value&….

        Raises:
            ValueError: It has another form.
        """
        name, equals, rest = text.partition("=")
        kind, colon, place = rest.partition(":")
        path, _, query = place.partition("?")
        if not (name and equals and kind and colon):
            raise ValueError(f"--model {text!r} should read NAME=ENGINE:PATH, such as judge=transformers:models/judge.")
        return ModelSpec(name, kind, path, {key: _value(value) for key, value in parse_qsl(query, True)})


def _value(text: str) -> Any:
    """Return a number or a truth value where the text is one, else the text."""
    try:
        found = json.loads(text)
    except ValueError:
        return text
    return found if isinstance(found, int | float) else text


def serve(options: ServeOptions) -> None:
    """Open the models and serve them until Ctrl-C or SIGTERM.

    Raises:
        ValueError: An option is wrong; nothing has been loaded then.
        WeightsError: A model cannot be opened.
        OSError: The address is taken.
    """
    specs = [ModelSpec.parse(text) for text in options.model]
    twice = {spec.name for spec in specs if sum(spec.name == other.name for other in specs) > 1}
    if twice:
        raise ValueError(f"two models are called {sorted(twice)[0]!r}; give each a name of its own.")
    token = read_token(options.token_file)
    check_host(options.host, token)
    from palaestra.launch.server.run import address, bind
    from palaestra.launch.server.run import serve as run

    with bind(options.host, options.port) as bound:
        app = open_app(options, specs, token)

        def ready() -> None:
            if app.models:
                print(f"serving {', '.join(app.models)} at {address(bound)}/v1", flush=True)
            if options.search:
                print(f"searching {options.search} at {address(bound)}/search", flush=True)

        run(app, bound, ready)


def read_token(file: Path | None) -> str | None:
    """Return the token that clients must send, None where there is none.

    Raises:
        ValueError: It is no token that fits into a header.
    """
    token = os.environ.get(TOKEN_VARIABLE) if file is None else file.read_text().strip()
    source = f"the environment variable {TOKEN_VARIABLE}" if file is None else str(file)
    if token is not None and (len(token) < 16 or not token.isascii() or not token.isprintable() or " " in token):
        raise ValueError(f"{source} holds no token: at least 16 ASCII characters without spaces, hard to guess.")
    return token


def check_host(host: str, token: str | None) -> None:
    """Refuse to listen to the world without a token.

    Raises:
        ValueError: With the fix.
    """
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ValueError(f"--host {host!r} is no address: {error}") from error
    local = all(ipaddress.ip_address(str(entry[4][0]).partition("%")[0]).is_loopback for entry in found)
    if not local and token is None:
        raise ValueError(
            f"--host {host} lets other machines ask, and there is no token. Set {TOKEN_VARIABLE} or give --token-file, "
            "or leave out --host and reach 127.0.0.1 through a tunnel."
        )


def open_app(options: ServeOptions, specs: list[ModelSpec], token: str | None) -> App:
    """Open the models, and return the application that serves them."""
    import torch

    from palaestra.agents.vlm.batcher import Batcher
    from palaestra.agents.vlm.engines import find_opener
    from palaestra.launch.server.app import App
    from palaestra.launch.server.bodies import Limits
    from palaestra.launch.server.routes import ROUTES

    torch.set_num_threads(options.threads)
    openers = [find_opener(spec.kind, spec.options, {"policy": open_policy}) for spec in specs]
    models: dict[str, Batcher] = {}
    for spec, opener in zip(specs, openers, strict=True):
        models[spec.name] = Batcher(
            opener(spec.path, **spec.options),
            max_batch=options.max_batch,
            max_wait=options.max_wait,
            max_queue=options.max_queue,
            cache_bytes=options.cache_mb << 20,
            hang_seconds=options.hang_seconds,
            name=spec.name,
        )
    routes = dict(ROUTES)
    if options.search:
        from palaestra.launch.server.search import open_search

        routes["/search"] = {"GET": open_search(options.search)}
    limits = Limits(body=options.max_body_mb << 20, bytes=options.max_held_mb << 20, pixels=options.max_pixels)
    weights_from = tuple(options.weights_from)
    return App(
        models, routes, token=token, weights_from=weights_from, limits=limits, drain_seconds=options.drain_seconds
    )


def open_policy(path: str, checkpoint: str | None = None, tokenizer: str | None = None) -> Engine:
    """Open the policy of a run or of LeRobot; new weights come from another folder of its kind.

    Args:
        path: The run's folder, or one that LeRobot saved a π0, π0.5 or SmolVLA in.
        checkpoint: Which of a run's checkpoints; by default the newest.
        tokenizer: The folder of a LeRobot policy's tokenizer, where it is not its own.
    """
    from palaestra.agents.vla.lerobot.format import read_json
    from palaestra.agents.vlm.engines.policy import PolicyEngine, weights_version
    from palaestra.launch.config import from_json
    from palaestra.launch.train import load_policy, make_worlds

    run = Path(path)
    if "type" in read_json(run / "config.json"):
        return _open_lerobot(run, None if tokenizer is None else Path(tokenizer))
    recipe = from_json(run / "config.json")
    worlds = make_worlds(recipe, 1)
    try:
        spec = worlds.spec
    finally:
        worlds.close()

    def reload(folder: Path) -> Any:
        if folder.parent.name != "checkpoints":
            return load_policy(folder, recipe, spec)
        return load_policy(folder.parent.parent, recipe, spec, folder.name)

    policy = load_policy(run, recipe, spec, checkpoint)
    return PolicyEngine(policy, spec, weights_version(policy, run.name), reload)


def _open_lerobot(path: Path, tokenizer: Path | None) -> Engine:
    """Open a policy that LeRobot saved; it serves whatever worlds show what it sees."""
    from palaestra.agents.vla.lerobot.checkpoint import policy_spec, read_policy
    from palaestra.agents.vlm.engines.policy import PolicyEngine, weights_version

    def read(folder: Path) -> Any:
        if (other := policy_spec(folder)).images != spec.images or other.state != spec.state:
            raise ValueError(f"it sees {dict(other.images)} and {other.state} numbers of proprioception.")
        return read_policy(folder, tokenizer=tokenizer)

    spec = policy_spec(path)
    policy = read(path)
    return PolicyEngine(policy, spec, weights_version(policy, path.name), read)
