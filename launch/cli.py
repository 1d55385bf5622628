"""The `palaestra` command: finds the function that does the work, and imports it only then."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Sequence

COMMANDS = {
    "train": "train a recipe, or go on with a run: palaestra train RECIPE, palaestra train --resume RUN",
    "evaluate": "measure a trained run's success rate, or replay a recorded one: palaestra evaluate RUN",
    "film": "film a run's policy before and after training, where the world can be drawn: palaestra film RUN",
    "teach": "train a teacher for Found-RL on an expert's drive: palaestra teach --to FOLDER --kind vlm",
    "export": "write a driving policy as ONNX, and measure its latency: palaestra export RUN",
    "compare": "compare runs over seeds and worlds: palaestra compare RUN RUN …",
    "demo": "push a cube, drive, open drawers, use a phone: palaestra demo [robot | driving | table | phone]",
    "list": "list worlds, recipes and benches",
    "check": "check that a world keeps the contract: palaestra check WORLD",
    "serve": "answer asks to models over HTTP, many in one batch: palaestra serve --model NAME=ENGINE:PATH",
    "phone": "serve a simulated Android phone to adb and android-env, or show it: palaestra phone --serve --show",
    "doctor": "say what this machine can run, or (checkpoint PATH) what a folder holds, and how to mend it",
    "bench": "measure speed: palaestra bench BENCH",
}


def usage() -> str:
    """Return what `palaestra --help` prints."""
    lines = [f"  {name:10} {text}" for name, text in COMMANDS.items()]
    return "\n".join(
        ["palaestra COMMAND …, where COMMAND is one of", "", *lines, "", "palaestra COMMAND --help says more."]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 well, 1 the work failed, 2 the words were wrong, 130 Ctrl-C."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(usage())
        return 0 if words else 2
    name, *rest = words
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        print(f"palaestra: {name!r} is no command.{hint}\n\n{usage()}", file=sys.stderr)
        return 2
    commands = importlib.import_module("palaestra.launch.commands")
    try:
        return int(getattr(commands, f"{name}_command")(rest))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except (ValueError, LookupError, OSError, ImportError, RuntimeError, FloatingPointError) as error:
        if "--debug" in sys.argv or not error.args:
            raise
        print(f"palaestra {name}: {error.args[0] if isinstance(error, KeyError) else error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
