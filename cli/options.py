"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from switchkd.runtime.engines.sampling import SETTINGS


class FiniteRange(click.FloatRange):
    """A number in a range: neither nan, which every range lets through, nor so large that products of it overflow."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if not abs(number) < 1e15:
            self.fail(f"{value} isn't a finite number of a usable size.", param, ctx)
        return number


FOLLOW_LINKS = click.option(
    "--follow-links", is_flag=True, help="Links in the picture folder may lead out of it, to another disk."
)
POSITIVE = FiniteRange(min=0, min_open=True)


_OFFERED = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")  # the API has them all


def sampling_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--temperature`, `--top-p` and so on: how an answer's tokens are drawn."""
    settings = {setting.name: setting for setting in SETTINGS}
    for name in reversed(_OFFERED):
        default, limits = settings[name].default, settings[name].metadata
        low, high = limits["low"], limits["high"]
        kind: click.ParamType = (
            click.IntRange(low, int(high))
            if isinstance(default, int)
            else FiniteRange(low, high, min_open=limits["open_low"])
        )
        command = click.option(
            f"--{name.replace('_', '-')}", type=kind, default=default, show_default=True, help=limits["help"]
        )(command)
    return command


def refuse_options(names: Collection[str], why: str) -> None:
    """Refuses what the command that runs would ignore.

    Args:
        names: of its parameters.
        why: how the sentence goes on after the option.

    Raises:
        click.UsageError: one of them stands on the command line.
    """
    context = click.get_current_context()
    for option in context.command.params:
        if option.name in names and context.get_parameter_source(option.name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{option.opts[0]} {why}")


def run_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--recipe`, `--set`, `--run`, `--nproc`, `--resume/--restart`."""
    for option in reversed(
        (
            click.option("--recipe", default="roadscenes", show_default=True, help="Shipped recipe or YAML file."),
            click.option(
                "--set",
                "overrides",
                multiple=True,
                metavar="KEY=VALUE",
                help="Change one setting, e.g. distillation.temperature=2; `skd recipe` lists them all.",
            ),
            click.option(
                "--run", "run_name", help="Run folder: a name under runs/, or a path. Default: the recipe's name."
            ),
            click.option(
                "--nproc",
                type=click.IntRange(min=1),
                help="Train in this many processes with DeepSpeed ZeRO-2. Default: this process, without DeepSpeed.",
            ),
            click.option(
                "--resume/--restart",
                default=True,
                show_default=True,
                help="Go on with an interrupted stage, or train it from its start. Finished stages are kept.",
            ),
        )
    ):
        command = option(command)
    return command


RUN = click.option(
    "--run",
    "run_name",
    metavar="RUN",
    help="The run that names of exports and models are looked for in. Default: the newest.",
)


def find_named(name: str, run_name: str | None) -> Path:
    """The folder of an export or a model: a path, `RUN/NAME`, a name in the run that `--run` names or in the newest, or a
    checkpoint's `asset:NAME` or name on the hub. Raises SkdError where there is none of these."""
    from switchkd.runs import existing_run, find_in_runs
    from switchkd.runtime.engines.opening import find_variant

    return find_variant(find_in_runs(name, existing_run(run_name)))


def open_run(
    recipe: str,
    overrides: tuple[str, ...],
    run_name: str | None,
    nproc: int | None,
    resume: bool,
    *requirements: Callable[[Any], None],
) -> Any:
    """The run that these options describe.

    Args:
        requirements: each raises where the command can't follow this recipe; called before anything is made.
    """
    from rich.console import Console

    from switchkd.recipes.reader import load_recipe
    from switchkd.runs import run_folder
    from switchkd.training.run import Run

    loaded = load_recipe(recipe, overrides)
    for require in requirements:
        require(loaded)
    folder = run_folder(run_name or loaded.name)
    return Run(folder, loaded, Console(), processes=nproc or 0, restart=not resume)
