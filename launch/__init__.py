"""Launch: the command line and the loops behind it."""

if __name__ != "palaestra.launch":
    raise ImportError(
        f"this package is palaestra.launch, but was imported as {__name__!r}: a second copy with its own "
        "registry and classes. Write 'import palaestra.launch' and run 'pip install -e .' first."
    )
