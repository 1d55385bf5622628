"""Rewards: what is good, as functions of what a world reported."""

if __name__ != "palaestra.rewards":
    raise ImportError(
        f"this package is palaestra.rewards, but was imported as {__name__!r}: a second copy with its own "
        "registry and classes. Write 'import palaestra.rewards' and run 'pip install -e .' first."
    )
