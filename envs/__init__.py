"""Worlds: what an agent acts in. Knows nothing of agents."""

if __name__ != "palaestra.envs":
    raise ImportError(
        f"this package is palaestra.envs, but was imported as {__name__!r}: a second copy with its own "
        "registry and classes. Write 'import palaestra.envs' and run 'pip install -e .' first."
    )
