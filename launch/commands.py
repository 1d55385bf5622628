"""What each command does. Heavy packages are imported by the command that needs them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro


def train_command(words: Sequence[str]) -> int:
    """Train a recipe by name, or go on with a run."""
    from palaestra.launch.config import AnyRecipe
    from palaestra.launch.config_tuning import TuningRecipe
    from palaestra.launch.recipes import ABOUT, recipe_named
    from palaestra.launch.report import write_report
    from palaestra.launch.train import read_recipe, resume, train

    if words and words[0] == "--resume":
        if len(words) != 2:
            raise ValueError("train --resume takes one run's folder and nothing else: its config.json says the rest.")
        run = resume(Path(words[1]))
    elif not words or words[0].startswith("-"):
        print(f"palaestra train RECIPE [options], where RECIPE is one of\n{_table(ABOUT)}\n")
        print("palaestra train --resume RUN")
        return 0 if words else 2
    else:
        options = _options(recipe_named(words[0]), words)
        run = train(options.recipe, _folder(options))
    recipe = read_recipe(run)
    if isinstance(recipe, TuningRecipe):
        _print_tuning(run)
        return 0
    if isinstance(recipe, AnyRecipe):
        _film(run)
    _print_result(run)
    print(f"report: {write_report(run)}")
    return 0


def _table(about: Mapping[str, str]) -> str:
    """Return names and what they are, one a line."""
    width = max(map(len, about))
    return "\n".join(f"  {name:<{width}}  {text}" for name, text in about.items())


def _options(recipe: Any, words: Sequence[str]) -> Any:
    """Return the options of `palaestra train` with a recipe's as defaults, read from the words after its name."""
    from palaestra.launch.config import TrainOptions

    kind: Any = TrainOptions[type(recipe)]  # type: ignore[misc]
    prog = f"palaestra train {words[0]}"
    return tyro.cli(kind, prog=prog, args=words[1:], default=kind(recipe), config=(tyro.conf.FlagConversionOff,))


def _folder(options: Any) -> Path:
    """Return the folder of a new run."""
    recipe, stamp = options.recipe, time.strftime("%Y%m%d-%H%M%S")
    return options.run or Path("runs") / f"{recipe.name}-{recipe.seed}-{stamp}"


def _print_tuning(run: Path) -> None:
    """Print how many questions a fine-tuned model answers, family by family."""
    from rich.console import Console
    from rich.table import Table

    result = json.loads((run / "result.json").read_text())
    table = Table(title=f"{run}: held-out questions answered word for word, with Wilson's 95 % intervals")
    for heading in ("model", "all", *result["blind_rate"]):
        table.add_column(heading)
    for entry in result["evaluations"]:
        cells = []
        for part in (entry, *entry["families"].values()):
            low, high = part["interval"]
            cells.append(f"{100 * part['rate']:.1f} % [{100 * low:.1f}, {100 * high:.1f}]")
        table.add_row(entry["name"], *cells)
    blind = result["blind_rate"].values()
    table.add_row("best without eyes", "", *(f"{100 * rate:.1f} %" for rate in blind))
    Console().print(table)
    seconds = result["seconds"]
    print(f"training took {seconds['wall']:.0f} s ({seconds['cpu']:.0f} s of CPU); result: {run / 'result.json'}")


def _film(run: Path) -> None:
    """Film in a process of its own: this one may hold a simulator that was loaded without a renderer."""
    words = [sys.executable, "-m", "palaestra.launch.cli", "film", str(run)]
    done = subprocess.run(words, check=False, text=True, stderr=subprocess.PIPE)
    # SwiftShader remarks on every call that it does not know, which says nothing to anybody here.
    remarks = [line for line in done.stderr.splitlines() if "libVulkan.cpp" not in line]
    if remarks:
        print("\n".join(remarks), file=sys.stderr)


def film_command(words: Sequence[str]) -> int:
    """Film a run's policies in episodes of its evaluation, or say why not."""
    if len(words) != 1 or words[0].startswith("-"):
        print("palaestra film RUN: films the policy before and after training; videos go to RUN/videos")
        return 0 if words and words[0] in ("-h", "--help") else 2
    from palaestra.envs.record import RenderError
    from palaestra.launch.config import from_json
    from palaestra.launch.film import film

    run = Path(words[0])
    recipe = from_json(run / "config.json")
    try:
        films = film(run, recipe, "000000", "before") + film(run, recipe)
    except RenderError as error:
        print(f"no video: {error}")
        return 0
    for path in films:
        print(f"video: {path}")
    return 0


def _print_result(run: Path) -> None:
    """Print the table of success rates of a finished run."""
    from rich.console import Console
    from rich.table import Table

    from palaestra.launch.runs import read_run

    finished = read_run(run)
    table = Table(title=f"{run}: success, with Wilson's 95 % intervals")
    for heading in ("policy", "success once", "success at the end", "episodes", "faults"):
        table.add_column(heading)
    for outcome in finished.outcomes:
        rates = []
        for column in ("success_once", "success_at_end"):
            low, high = outcome.interval(column)
            rates.append(f"{100 * outcome.rate(column):.1f} % [{100 * low:.1f}, {100 * high:.1f}]")
        table.add_row(outcome.name, *rates, str(len(outcome.episodes)), str(outcome.faults))
    Console().print(table)
    print(f"success is {finished.outcomes[0].definition}; deployed policy, held-out start states")


@dataclass(frozen=True)
class _Evaluate:
    """Measure a trained run, or replay a recorded measurement."""

    run: Annotated[Path | None, tyro.conf.Positional] = None
    """The run's folder."""
    replay: Path | None = None
    """A run's result.json: play its evaluations again and compare them episode by episode."""
    episodes: int = 200
    """How many episodes."""
    seed: int | None = None
    """Where start states come from; by default the held-out seed of every evaluation."""
    checkpoint: str | None = None
    """Name of a checkpoint, such as 000040; by default the newest."""
    count: int | None = None
    """Worlds in parallel; by default the recipe's."""
    held_out: bool = False
    """Of tabletop runs: measure before and after on every held-out split, and with another table's words or pictures;
    writes RUN/held_out.json."""


def evaluate_command(words: Sequence[str]) -> int:
    """Evaluate a run, or replay a result."""
    options = tyro.cli(_Evaluate, prog="palaestra evaluate", args=list(words))
    if options.replay is not None:
        return _replay(options.replay)
    if options.run is None:
        raise ValueError("evaluate needs a run's folder, or --replay result.json.")
    from palaestra.launch.config import EVALUATION_SEED, from_json
    from palaestra.launch.evaluate import evaluate
    from palaestra.launch.train import load_policy, make_worlds

    recipe = from_json(options.run / "config.json")
    if options.held_out:
        return _held_out(options.run, recipe, options.episodes, options.count)
    worlds = make_worlds(recipe, options.count)
    try:
        policy = load_policy(options.run, recipe, worlds.spec, options.checkpoint)
        seed = EVALUATION_SEED if options.seed is None else options.seed
        evaluation = evaluate(worlds, policy, options.episodes, seed, recipe.name)
    finally:
        worlds.close()
    print(evaluation.summary, evaluation.resolution, sep="\n")
    return 0


def _held_out(run: Path, recipe: Any, episodes: int, count: int | None) -> int:
    from palaestra.launch.config import Recipe
    from palaestra.launch.held_out import held_out

    if not isinstance(recipe, Recipe):
        raise ValueError(f"--held-out measures runs on tabletop/* worlds; {run} is of another kind.")
    for evaluation in held_out(run, recipe, episodes, count):
        print(evaluation.summary, flush=True)
    print(f"result: {run / 'held_out.json'}")
    return 0


def _replay(path: Path) -> int:
    from palaestra.launch.config import from_json
    from palaestra.launch.result import replay
    from palaestra.launch.train import load_policy, make_worlds

    run = path if path.is_dir() else path.parent
    recipe = from_json(run / "config.json")

    def worlds_of(entry: Mapping[str, Any]) -> Any:
        return make_worlds(recipe, entry["count"])

    def policy_of(entry: Mapping[str, Any]) -> Any:
        worlds = make_worlds(recipe, 1)
        try:
            return load_policy(run, recipe, worlds.spec, entry["checkpoint"])
        finally:
            worlds.close()

    same = True
    for played in replay(run / "result.json", worlds_of, policy_of):
        print(played.again.summary)
        print("\n".join(played.differences) or "every episode came out as recorded")
        same = same and not played.differences
    return 0 if same else 1


def teach_command(words: Sequence[str]) -> int:
    """Train a teacher on an expert's drive, and print how good it is."""
    from palaestra.launch.teach import TeachOptions, teach

    print(json.dumps(teach(tyro.cli(TeachOptions, prog="palaestra teach", args=list(words))), indent=2))
    return 0


@dataclass(frozen=True)
class _Export:
    """Write a run's driving policy as ONNX, and measure its latency."""

    run: Annotated[Path, tyro.conf.Positional]
    """The folder of a run of Found-RL."""
    to: Path | None = None
    """The file; by default RUN/policy.onnx."""
    checkpoint: str | None = None
    """Name of a checkpoint, such as 000040; by default the newest."""


def export_command(words: Sequence[str]) -> int:
    """Export a policy."""
    options = tyro.cli(_Export, prog="palaestra export", args=list(words))
    from palaestra.launch.export import export_run

    print(json.dumps(export_run(options.run, options.to, options.checkpoint), indent=2))
    return 0


@dataclass(frozen=True)
class _Compare:
    """Compare runs over seeds and worlds."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders of finished runs."""
    out: Path = Path("runs/compare")
    """Where the figure, the tables and the page go."""
    by: tuple[str, ...] = ("recipe",)
    """What makes a group: entries of the result or of the recipe, such as pi_rl.sampler."""
    column: Literal["success_once", "success_at_end"] = "success_once"
    """Which success."""
    over: Literal["env_steps", "wall_s"] = "env_steps"
    """What curves, and success while learning, are taken over: steps of all worlds, or seconds of the run."""


def compare_command(words: Sequence[str]) -> int:
    """Compare finished runs."""
    options = tyro.cli(_Compare, prog="palaestra compare", args=list(words))
    from rich.console import Console

    from palaestra.launch.compare import compare
    from palaestra.launch.report import write_report

    comparison = compare(options.runs, options.out, by=options.by, column=options.column, over=options.over)
    Console().print(comparison.table())
    print("".join(f"note: {note}\n" for note in comparison.notes), end="")
    print(f"figure: {options.out / 'compare.png'}\nreport: {write_report(comparison, options.out / 'report.html')}")
    return 0


def demo_command(words: Sequence[str]) -> int:
    """Train a demo's recipe and show what came out."""
    from palaestra.launch.recipes import DEMOS

    name, *options = words if words and not words[0].startswith("-") else (next(iter(DEMOS)), *words)
    if name not in DEMOS:
        print(f"palaestra demo [DEMO] [options], where DEMO is one of {', '.join(DEMOS)}")
        return 2
    return train_command([*DEMOS[name], *options])


def list_command(words: Sequence[str]) -> int:
    """List what there is."""
    from palaestra.envs.registry import names
    from palaestra.envs.retrieval.registry import names as conversations
    from palaestra.launch.bench import BENCHES
    from palaestra.launch.recipes import ABOUT

    for title, entries in (("worlds", [*names(), *conversations()]), ("benches", list(BENCHES))):
        print(f"{title}:")
        print("\n".join(f"  {entry}" for entry in entries))
    print(f"recipes:\n{_table(ABOUT)}")
    print("Any Gymnasium id and package.module:function are worlds too.")
    return 0


def check_command(words: Sequence[str]) -> int:
    """Check a world."""
    if len(words) != 1 or words[0].startswith("-"):
        print("palaestra check WORLD: checks that a world keeps the contract; see palaestra list")
        return 0 if words and words[0] in ("-h", "--help") else 2
    from palaestra.envs.check import check
    from palaestra.envs.retrieval.check import check_tools, is_tools

    if is_tools(words[0]):
        print(check_tools(words[0]))
        return 0
    report = check(words[0])
    print(report)
    return 0 if report.passed else 1


def serve_command(words: Sequence[str]) -> int:
    """Serve models until stopped."""
    from palaestra.launch.serve import ServeOptions, serve

    serve(tyro.cli(ServeOptions, prog="palaestra serve", args=list(words)))
    return 0


def phone_command(words: Sequence[str]) -> int:
    """Serve a simulated phone until stopped."""
    from palaestra.launch.phone import PhoneOptions, phone

    phone(tyro.cli(PhoneOptions, prog="palaestra phone", args=list(words)))
    return 0


def doctor_command(words: Sequence[str]) -> int:
    """Print what this machine can run, or what a folder holds and whether it loads."""
    if words and (len(words) != 2 or words[0] != "checkpoint"):
        print("palaestra doctor: looks at this machine\npalaestra doctor checkpoint PATH: loads what a folder holds")
        return 0 if words[0] in ("-h", "--help") else 2
    from palaestra.launch.doctor import doctor
    from palaestra.launch.inspect import inspect

    findings = inspect(Path(words[1])) if words else doctor()
    print("\n".join(map(str, findings)))
    return int(bool(words) and any(finding.state == "missing" for finding in findings))


def bench_command(words: Sequence[str]) -> int:
    """Run a bench by name."""
    from palaestra.launch.bench import BENCHES

    if len(words) != 1 or words[0] not in BENCHES:
        print(f"palaestra bench BENCH, where BENCH is one of {', '.join(BENCHES)}; a bench takes no options")
        return 2
    print(json.dumps(BENCHES[words[0]](), indent=2))
    return 0
