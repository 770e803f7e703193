"""Options for a teacher, a student and data of one's own: short names for settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

_FILE = click.Path(path_type=Path)
_RECIPE = "own"  # the shipped recipe that they are for
_GIVEN_TOGETHER = (("student_vision", "student_language"), ("student_language", "student_vision"))
_BESIDE = (("images", "data"), ("eval_images", "eval_file"))  # the first says nothing without the second
_MODELS = ("teacher", "student", "student_vision", "student_language")


def own_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--teacher`, `--student`, `--data` and so on, as keywords that `own_settings` takes."""
    for option in reversed(
        (
            click.option(
                "--teacher", metavar="MODEL", help="The teacher: a folder, hub name, asset:NAME or RUN/teacher."
            ),
            click.option(
                "--student", metavar="MODEL", help="The student to start from; its projector is a trained one."
            ),
            click.option(
                "--student-vision", metavar="MODEL", help="Instead of --student: a tower, under a new projector."
            ),
            click.option("--student-language", metavar="MODEL", help="And a language model, as in `skd init`."),
            click.option("--data", type=_FILE, help="LLaVA JSON to train on."),
            click.option("--images", type=_FILE, help="Its picture folder. Default: images/ beside the file."),
            click.option("--eval", "eval_file", type=_FILE, help="Questions to measure with: LLaVA JSON."),
            click.option(
                "--eval-images", type=_FILE, help="Their picture folder. Default: --images, or images/ beside the file."
            ),
            click.option(
                "--steps",
                type=click.IntRange(min=1),
                help="Optimizer steps of each stage. Default: the recipe's, in `own` one pass.",
            ),
        )
    ):
        command = option(command)
    return command


def own_settings(
    recipe: str, overrides: tuple[str, ...], own: Mapping[str, Any], *, trained: str = "student"
) -> tuple[str, tuple[str, ...]]:
    """The recipe, and its overrides, that these options stand for; `--set` is stronger.

    Args:
        own: the values of `own_options`, None where one isn't given.
        trained: the model that the command trains, `student` or `teacher`.

    Raises:
        click.UsageError: options that can't go together.
        SkdError: a file or folder that isn't there, or a recipe that makes its data itself.
    """
    given = {name: value for name, value in own.items() if value is not None}
    _require_sense(given, trained)
    chosen = click.get_current_context().get_parameter_source("recipe") is not ParameterSource.DEFAULT
    if given.keys() - {"steps"} and not chosen:
        recipe = _RECIPE
    if given:
        from switchkd.recipes.reader import load_recipe

        plain = load_recipe(recipe, overrides)
        if plain.data.source == "roadscenes" and given.keys() - {"steps"}:
            raise click.UsageError(
                f"{_option(next(iter(given)))} is for data of yours, and the recipe '{recipe}' draws its own: leave --recipe out, "
                "name one that reads files, or use --set."
            )
        settings = _models(given, trained, new=not chosen) | _files(given, plain.data.sets)
        if "steps" in given:
            settings |= {f"stages.{name}.steps": given["steps"] for name in plain.stages}
        overrides = (*(f"{key}={_yaml(value)}" for key, value in settings.items()), *overrides)
    return recipe, overrides


def _require_sense(given: Mapping[str, Any], trained: str) -> None:
    if "student" in given:
        for name in ("student_vision", "student_language"):
            if name in given:
                raise click.UsageError(
                    f"{_option(name)} makes a new student, and --student names a ready one: leave one out."
                )
    for name, other in (*_GIVEN_TOGETHER, *_BESIDE):
        if name in given and other not in given:
            raise click.UsageError(f"{_option(name)} goes with {_option(other)}.")
    for name in _MODELS[1:]:
        if name in given and trained == "teacher":
            raise click.UsageError(f"{_option(name)} has no meaning with --role teacher.")


def _models(given: Mapping[str, Any], trained: str, *, new: bool) -> dict[str, Any]:
    """Settings of the models, and of the stages that suit them: a ready student's projector needs no alignment of its own.

    Args:
        new: no recipe was chosen, so that stages and the run's name follow from the options.
    """
    from switchkd.runs import find_model

    models = {name: find_model(given[name]) for name in _MODELS if name in given}
    settings: dict[str, Any] = {}
    if "teacher" in models:
        settings["teacher.checkpoint"] = models["teacher"]
    if trained == "teacher":
        settings |= {"name": f"{_RECIPE}-teacher", "teacher.stages": ["sft"]} if new else {}
    if "student" in models:
        settings["student.checkpoint"] = models["student"]
        settings |= {"student.stages": ["dft"], "student.baseline": ["sft"]} if new else {}
    elif "student_vision" in models:
        settings["student.checkpoint"] = ""
        settings |= {f"student.{part}": models[f"student_{part}"] for part in ("vision", "language")}
    return settings


def _files(given: Mapping[str, Any], sets: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the files, as absolute paths: they mean the same from wherever the run is looked at."""
    settings: dict[str, Any] = {}
    if "data" in given:
        images = given.get("images", given["data"].parent / "images")
        entry = {"file": _existing(given["data"], "--data"), "images": str(images.absolute())}
        settings |= {f"data.sets.{name}": entry for name in sets}
    if "eval_file" in given:
        images = given.get("eval_images") or given.get("images") or given["eval_file"].parent / "images"
        settings["data.test"] = _existing(given["eval_file"], "--eval")
        settings["data.test_images"] = str(images.absolute())
    return settings


def _existing(file: Path, option: str) -> str:
    from switchkd.errors import DataError

    if not file.is_file():
        raise DataError(f"{option} {file}: there is no such file.")
    return str(file.absolute())


def _option(name: str) -> str:
    return "--eval" if name == "eval_file" else f"--{name.replace('_', '-')}"


def _yaml(value: Any) -> str:
    import json

    return json.dumps(value)  # YAML as well, whatever signs a path has
