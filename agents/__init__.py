"""Agents: policies, learners and the maths they share."""

if __name__ != "palaestra.agents":
    raise ImportError(
        f"this package is palaestra.agents, but was imported as {__name__!r}: a second copy with its own "
        "registry and classes. Write 'import palaestra.agents' and run 'pip install -e .' first."
    )
