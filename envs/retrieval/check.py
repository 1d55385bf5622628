"""Does a class of tools keep the contract? What an agent would read of it, and where it would stumble."""

from __future__ import annotations

import inspect
import json

from palaestra.envs.retrieval import registry
from palaestra.envs.retrieval.tools import tools_of


def is_tools(id: str) -> bool:
    """Whether a name stands for a world of tools: a known one, or a class whose `reset` takes no seed."""
    if id in registry.names():
        return True
    if ":" not in id:
        return False
    try:
        kind = registry.find(id)
    except (ImportError, TypeError, ValueError):
        return False
    return hasattr(kind, "reset") and "seed" not in inspect.signature(kind.reset).parameters


def check_tools(id: str) -> str:
    """Return what an agent reads of a world's tools, and what is missing, in lines.

    Raises:
        TypeError: The class is no world of tools: it says what to change.
    """
    kind = registry.find(id)
    if callable(getattr(kind, "step", None)):
        return f"{id} is a full world: reset(**row), and step(action), whose last reply pays."
    tools = tools_of(kind)
    lines = [json.dumps(tool.schema["function"]) for tool in tools.values()]
    silent = (name for name, tool in tools.items() if not tool.description)
    lines += [f"{name} has no docstring: an agent is not told what it does" for name in silent]
    if not callable(getattr(kind, "reward", None)):
        lines.append("there is no reward(answer): give training one of its own, such as palaestra.rewards.retrieval")
    return "\n".join([f"{id}: {len(tools)} tools", *lines])
