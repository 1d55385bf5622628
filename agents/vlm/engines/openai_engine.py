"""The `openai` engine: forwards asks to a server that speaks OpenAI's API, such as vLLM, SGLang or a hosted one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from palaestra.agents.vlm.core import Act, Answer, Ask, AskError, EngineError, ServerLostError, WeightsError
from palaestra.agents.vlm.faults import TokenError
from palaestra.agents.vlm.remote import RemoteClient


class OpenAIEngine:
    """Answers `Generate` and `Embed` by asking another server, a whole batch at a time."""

    def __init__(
        self,
        url: str,
        model: str = "",
        *,
        token_env: str = "",
        concurrency: int = 64,
        timeout: float = 120.0,
        retries: int = 2,
    ) -> None:
        """Connect, and see that the model is there.

        Args:
            url: The server's address, with or without `/v1`.
            model: Its name there; may be left out where the server has one model.
            token_env: The environment variable that holds the token, such as `OPENAI_API_KEY`; none is sent without.
            concurrency: Requests on their way at a time.
            timeout: Seconds after which a request counts as lost.
            retries: How often a request goes out again after the server was lost. Refusals (429) are always waited out.

        Raises:
            ValueError: The variable is not set, or the server has no such model.
            ServerLostError: The server is away.
        """
        token = os.environ.get(token_env) if token_env else None
        if token_env and not token:
            raise ValueError(f"the environment variable {token_env} is not set: it should hold the token for {url}.")
        self._client = RemoteClient(url, token=token, connections=concurrency, timeout=timeout, retries=retries)
        try:
            self.model, self.version = _choose(self._client, model)
        except BaseException:
            self._client.close()
            raise

    def check(self, ask: Ask) -> None:
        """Refuse `Act`, which OpenAI's API does not know; the rest is for the server to judge."""
        if isinstance(ask, Act):
            raise AskError("an OpenAI-compatible server does not act on observations: ask it Generate or Embed.")

    def size(self, ask: Ask) -> int:
        """Return 1: the server makes its own batches."""
        return 1

    def answer(self, asks: Sequence[Ask]) -> list[Answer | Exception]:
        """Ask the server everything at once, and wait for all of it."""
        futures = [self._client.ask_nowait(self.model, ask, wait=True) for ask in asks]
        outcomes: list[Answer | Exception] = []
        for future in futures:
            error = future.exception()
            outcomes.append(future.result().answer if error is None else _as_exception(error))
        return outcomes

    def close(self) -> None:
        """Hang up; other engines that `load` made of this one too."""
        self._client.close()

    def load(self, path: Path) -> OpenAIEngine:
        """Return an engine that asks for another of the server's models.

        Raises:
            WeightsError: The server has no model of that name.
        """
        other = object.__new__(OpenAIEngine)
        other._client = self._client
        try:
            other.model, other.version = _choose(self._client, str(path))
        except (ValueError, OSError, EngineError) as error:
            raise WeightsError(str(error)) from error
        return other


def _choose(client: RemoteClient, model: str) -> tuple[str, str]:
    """Return the name and version of a model that the server has."""
    try:
        there = client.models()
    except TokenError as error:
        raise ValueError(f"{client.url} wants another token: {error} Name its variable with token_env.") from error
    if model in there:
        return model, there[model]
    if not model and len(there) == 1:
        return next(iter(there.items()))
    wanted = f"no model {model!r}" if model else "not one model"
    raise ValueError(f"{client.url} has {wanted}; choose with model=… among {', '.join(sorted(there)[:20]) or 'none'}.")


def _as_exception(error: BaseException) -> Exception:
    """Return an error that a batch may hold: being refused there is no fault of the ask's here."""
    if isinstance(error, TokenError):
        return EngineError(f"the forwarding server's token is refused: {error}")
    return error if isinstance(error, Exception) else ServerLostError(repr(error))
