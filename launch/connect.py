"""The client through which a run asks a model on a server."""

from __future__ import annotations

import os

from palaestra.agents.vlm import faults
from palaestra.agents.vlm.client import Client, connect
from palaestra.launch.serve import TOKEN_VARIABLE


def connect_to(server: str, model: str) -> Client:
    """Return a client of a server that has a model; later the server may be lost, and comes back.

    Args:
        server: Its address. A token that it wants is taken from the environment variable PALAESTRA_TOKEN.
        model: What the run will ask.

    Raises:
        ServerLostError: It is away: before a run begins that is a mistake.
        UnknownModelError: It has no such model, with the nearest names.
        TokenError: It wants a token, or another one.
    """
    client = connect(server, token=os.environ.get(TOKEN_VARIABLE))
    try:
        there = client.models()
        if model not in there:
            raise faults.unknown_model(model, there)
    except BaseException:
        client.close()
        raise
    return client
