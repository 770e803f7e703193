"""Recipes: the one place where every setting of a run has its name, default, range and help text."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any, Union

import yaml

from switchkd.errors import RecipeError

METHODS = ("fkl", "rkl", "bild-fkl", "bild-rkl", "dbild-fkl", "dbild-rkl")
PARTS = ("vision", "projector", "language")


def setting(
    default: Any = dataclasses.MISSING,
    *,
    help: str,
    choices: tuple | None = None,
    low: float | None = None,
    high: float | None = None,
    affects_result: bool = True,
    factory: Any = dataclasses.MISSING,
) -> Any:
    """A dataclass field with its help text and range."""
    metadata = {"help": help, "choices": choices, "low": low, "high": high, "affects_result": affects_result}
    if factory is not dataclasses.MISSING:
        return field(default_factory=factory, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Distillation:
    """The objective L = L_CE + λ1·Align + λ2·VSD (paper, equation 1) and what the paper leaves open about it."""

    method: str = setting("dbild-rkl", choices=METHODS, help="Divergence between two sets of logits.")
    temperature: float = setting(3.0, low=1e-3, help="Temperature τ of the distillation terms.")
    lambda_align: float = setting(1.0, low=0, help="λ1, weight of teacher against student; 0 leaves the term out.")
    lambda_switch: float = setting(
        1.0, low=0, help="λ2, weight of the visual switch against the teacher; 0 leaves the pass out."
    )
    knee_top: int | None = setting(None, low=2, help="Search the knee among the K largest logits only.")
    k_min: int | None = setting(None, low=2, help="Lower bound of the knee.")
    k_max: int | None = setting(None, low=2, help="Upper bound of the knee.")
    k: int = setting(8, low=2, help="Number of logits that the bild-* methods compare.")
    tau_squared: bool = setting(False, help="Multiply the distillation terms by τ².")
    ce_temperature: float = setting(
        1.0, low=1e-3, help="Temperature of the cross entropy: 1 in the main text, τ in Algorithm 1."
    )


@dataclass(frozen=True)
class Stage:
    """One training stage: which parts learn from which data, how."""

    data: str = setting("finetune", help="Name of a set in data.sets.")
    trainable: tuple[str, ...] = setting(PARTS, choices=PARTS, help="Parts that learn; the others are frozen.")
    distill: bool = setting(False, help="Learn from the teacher too, not from the labels alone.")
    learning_rate: float = setting(2e-5, low=0, help="Peak learning rate.")
    learning_rates: Mapping[str, float] = setting(
        factory=dict, help="Peak learning rates of single parts, e.g. {vision: 2e-6}."
    )
    batch_size: int = setting(128, low=1, help="Samples an optimizer step, over all processes.")
    micro_batch: int | None = setting(
        None, low=1, help="Samples a process holds at once; the rest is accumulated. Default: its whole share."
    )
    epochs: float = setting(1.0, low=0, help="Passes over the data.")
    steps: int | None = setting(None, low=1, help="Optimizer steps, instead of epochs.")
    schedule: str = setting("cosine", choices=("cosine", "linear", "constant_with_warmup"), help="Learning-rate curve.")
    warmup: float = setting(0.03, low=0, high=1, help="Share of the steps that the learning rate rises for.")
    weight_decay: float = setting(0.0, low=0, help="AdamW's weight decay.")
    beta2: float = setting(0.999, low=0, high=1, help="AdamW's second beta.")
    clip: float = setting(1.0, low=0, help="Largest gradient norm; 0 doesn't clip.")
    precision: str = setting("fp32", choices=("fp32", "bf16"), help="Arithmetic of forward and backward.")
    gradient_checkpointing: bool = setting(False, help="Recompute activations to save memory.")
    workers: int = setting(0, low=0, affects_result=False, help="Processes that read data, for each training process.")
    save_every: int = setting(200, low=1, affects_result=False, help="Optimizer steps between checkpoints.")
    log_every: int = setting(10, low=1, affects_result=False, help="Optimizer steps between log lines.")


@dataclass(frozen=True)
class DataSet:
    """A file of LLaVA records."""

    file: str = setting("", help="LLaVA JSON or JSONL; a relative path starts at the data folder.")
    images: str = setting("images", help="Folder that the records' image paths start from.")


@dataclass(frozen=True)
class Roadscenes:
    """Sizes of the built-in task, made in the run's data folder."""

    size: int = setting(64, low=48, high=1024, help="Pixels a side.")
    seed: int = setting(0, low=0, help="Seed of the scenes.")
    train: int = setting(6000, low=1, help="Training pictures.")
    val: int = setting(50, low=1, help="Validation pictures.")
    test: int = setting(250, low=1, help="Test pictures.")
    text: int = setting(12000, low=0, help="Text-only scenes, for pre-training language models.")


@dataclass(frozen=True)
class Data:
    """Where the samples come from."""

    source: str = setting("roadscenes", choices=("roadscenes", "files"), help="The built-in task, or files of yours.")
    folder: str = setting("", help="Where relative paths start; empty is the run's own data folder.")
    sets: Mapping[str, DataSet] = setting(factory=dict, help="Named sets that stages refer to.")
    validation: str = setting("val.json", help="Questions for choosing settings.")
    test: str = setting("test.json", help="Questions for the final figures.")
    test_images: str = setting("images", help="Folder that the questions' image paths start from.")
    max_length: int = setting(2048, low=8, help="Longest sample in tokens; longer ones are counted as unusable.")
    verify: str = setting(
        "full", choices=("full", "header"), help="Decode every picture once before training, or read headers only."
    )
    max_bad: float = setting(0.01, low=0, high=1, help="Share of unusable records above which a run stops.")


@dataclass(frozen=True)
class Part:
    """A part that this recipe trains from nothing."""

    kind: str = setting("vision", choices=("vision", "language"), help="Vision tower or language model.")
    shape: Mapping[str, Any] = setting(factory=dict, help="Fields of its transformers configuration.")
    stages: tuple[str, ...] = setting((), help="Stages it is trained by.")
    vision: Mapping[str, Any] = setting(
        factory=dict, help="Shape of the throw-away tower that a language part is trained beside."
    )
    language: str = setting("", help="Language part that reads to a vision part while it is trained.")


@dataclass(frozen=True)
class Model:
    """A vision-language model: a ready checkpoint, or two parts and the stages that train them."""

    checkpoint: str = setting(
        "",
        help="A LLaVA folder, hub name or asset:NAME: a teacher is taken as it is, a student starts from it. "
        "whole:NAME is the whole model in which part NAME was trained; from it a teacher starts too.",
    )
    vision: str = setting("", help="Vision part: folder, hub name, asset:NAME or part:NAME.")
    language: str = setting("", help="Language part: folder, hub name, asset:NAME or part:NAME.")
    feature_layer: int = setting(-1, help="Hidden layer of the tower that feeds the projector.")
    stages: tuple[str, ...] = setting((), help="Stages that train it, in order.")
    baseline: tuple[str, ...] = setting((), help="Stages of its undistilled twin (`skd train`), in order.")


def is_ready(checkpoint: str) -> bool:
    """Whether a teacher's checkpoint is taken as it is, rather than made by the recipe or trained further."""
    return bool(checkpoint) and not checkpoint.startswith("whole:")


@dataclass(frozen=True)
class Recipe:
    """Everything that a run depends on."""

    name: str = setting("custom", help="Name of the recipe, and of the run where no other is given.")
    seed: int = setting(0, low=0, help="Seed of initialisation and sample order.")
    compare: bool = setting(
        False, help="Train the student's undistilled twin too, and show teacher, twin and student side by side."
    )
    tokenizer_rows: int = setting(512, low=270, help="Vocabulary of parts that are trained from nothing.")
    data: Data = setting(factory=Data, help="Samples.")
    roadscenes: Roadscenes = setting(factory=Roadscenes, help="The built-in task.")
    parts: Mapping[str, Part] = setting(factory=dict, help="Parts trained from nothing.")
    teacher: Model = setting(factory=Model, help="The big model.")
    student: Model = setting(factory=Model, help="The small model.")
    distillation: Distillation = setting(factory=Distillation, help="The objective.")
    stages: Mapping[str, Stage] = setting(factory=dict, help="Stages by name.")


def recipe_names() -> list[str]:
    """Names of the recipes that ship with the package."""
    folder = resources.files("switchkd.recipes")
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load_recipe(name: str, overrides: tuple[str, ...] | list[str] = ()) -> Recipe:
    """A recipe by its shipped name or its YAML file, with `key=value` overrides on top.

    Raises:
        RecipeError: no such recipe, an unknown key, a value of the wrong type or out of range, an unknown reference.
    """
    values = read_recipe_values(name)
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator:
            raise RecipeError(f"--set {override}: write it as key=value, e.g. distillation.temperature=2.")
        _override(values, key.strip(), _parse_scalar(text, override))
    recipe = build(Recipe, values, "")
    _check_references(recipe)
    return recipe


def read_recipe_values(name: str) -> dict[str, Any]:
    """The plain mapping in a recipe's YAML.

    Raises:
        RecipeError: no such recipe, or not YAML.
    """
    if name in recipe_names():
        text = (resources.files("switchkd.recipes") / f"{name}.yaml").read_text()
    else:
        try:
            text = Path(name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(
                f"There is no recipe '{name}': neither a readable file nor one of {', '.join(recipe_names())}."
            ) from error
    try:
        values = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise RecipeError(f"Recipe {name} is not valid YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(values, dict):
        raise RecipeError(f"Recipe {name} is not a mapping of settings.")
    return values


def _parse_scalar(text: str, override: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"--set {override}: the value is not valid YAML.") from error


def _override(values: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise RecipeError(f"--set {key}: '{parent}' is a single value and has no parts.")
    values[last] = value


def build(cls: type, values: Any, where: str) -> Any:
    """A frozen dataclass from a plain mapping, with every key, type and range checked."""
    if not isinstance(values, Mapping):
        raise RecipeError(f"Recipe: '{where}' has to be a mapping, not {values!r}.")
    known = {item.name: item for item in fields(cls)}
    unknown = [key for key in values if key not in known]
    if unknown:
        raise RecipeError(f"Recipe: unknown setting '{_join(where, unknown[0])}'; known here: {', '.join(known)}.")
    hints = typing.get_type_hints(cls)
    built = {key: _value(hints[key], value, known[key], _join(where, key)) for key, value in values.items()}
    return cls(**built)


def _join(where: str, key: Any) -> str:
    return f"{where}.{key}" if where else str(key)


def _value(hint: Any, value: Any, item: dataclasses.Field, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return build(typing.cast(type, hint), value, where)
    if origin in (Union, types.UnionType):
        return None if value is None else _value(arguments[0], value, item, where)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise RecipeError(f"Recipe: '{where}' has to be a list, not {value!r}.")
        return tuple(_value(arguments[0], entry, item, where) for entry in value)
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise RecipeError(f"Recipe: '{where}' has to be a mapping, not {value!r}.")
        return {str(key): _value(arguments[1], entry, item, _join(where, key)) for key, entry in value.items()}
    return value if hint is Any else _scalar(hint, value, item, where)


def _scalar(hint: type, value: Any, item: dataclasses.Field, where: str) -> Any:
    if hint is float and isinstance(value, str | int) and not isinstance(value, bool):
        # YAML reads 1e-3 as text.
        try:
            value = float(value)
        except ValueError:
            value = str(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise RecipeError(f"Recipe: '{where}' has to be {_kind(hint)}, not {value!r}.")
    choices, low, high = (item.metadata.get(key) for key in ("choices", "low", "high"))
    if choices and value not in choices:
        raise RecipeError(f"Recipe: '{where}' is {value!r}; possible are {', '.join(map(str, choices))}.")
    outside = (low is not None and not value >= low) or (high is not None and not value <= high)
    if outside or value != value:
        span = f"at least {low}" if high is None else f"between {low} and {high}"
        raise RecipeError(f"Recipe: '{where}' is {value}; it has to be {span}.")
    return value


def _kind(hint: type) -> str:
    return {str: "text", int: "a whole number", float: "a number", bool: "true or false"}.get(hint, str(hint))


def _check_references(recipe: Recipe) -> None:
    owners: list[tuple[str, Model | Part]] = [
        ("teacher", recipe.teacher),
        ("student", recipe.student),
        *recipe.parts.items(),
    ]
    for owner, entry in owners:
        for name in (*entry.stages, *getattr(entry, "baseline", ())):
            if name not in recipe.stages:
                raise RecipeError(f"Recipe: {owner} names stage '{name}', which isn't in stages.")
        for kind in ("checkpoint", "vision", "language"):
            reference = getattr(entry, kind, "")
            prefix, _, part = reference.partition(":") if isinstance(reference, str) else ("", "", "")
            if prefix in ("part", "whole") and part not in recipe.parts:
                raise RecipeError(f"Recipe: {owner}.{kind} is '{reference}', which isn't in parts.")
    for name, stage in recipe.stages.items():
        if stage.data not in recipe.data.sets:
            raise RecipeError(f"Recipe: stages.{name}.data is '{stage.data}', which isn't in data.sets.")
        unknown = [part for part in stage.learning_rates if part not in PARTS]
        if unknown:
            raise RecipeError(f"Recipe: stages.{name}.learning_rates names '{unknown[0]}'; parts are {PARTS}.")
        if stage.micro_batch and stage.batch_size % stage.micro_batch:
            raise RecipeError(f"Recipe: stages.{name}.batch_size isn't a multiple of its micro_batch.")
    if not recipe.student.checkpoint and not (recipe.student.vision and recipe.student.language):
        raise RecipeError("Recipe: student needs a checkpoint, or a vision and a language part.")


def to_plain(value: Any) -> Any:
    """A recipe (or a piece of one) as plain data, for YAML and JSON; the inverse of `build`."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: to_plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, Mapping):
        return {key: to_plain(entry) for key, entry in value.items()}
    return [to_plain(entry) for entry in value] if isinstance(value, tuple | list) else value


def result_settings(value: Any) -> Any:
    """As `to_plain`, without the settings that can't change a result; what a stage's fingerprint is made of."""
    plain = to_plain(value)
    for item in fields(value):
        if not item.metadata.get("affects_result", True):
            del plain[item.name]
    return plain


def explain(cls: type = Recipe, where: str = "") -> list[tuple[str, str, str]]:
    """(key, default, help text) of every setting, nested ones with their path; NAME stands for a name of your own."""
    rows = []
    hints = typing.get_type_hints(cls)
    for item in fields(cls):
        key, hint = _join(where, item.name), hints[item.name]
        arguments = typing.get_args(hint)
        if dataclasses.is_dataclass(hint):
            rows += explain(typing.cast(type, hint), key)
        elif arguments and dataclasses.is_dataclass(arguments[-1]):
            rows += explain(typing.cast(type, arguments[-1]), f"{key}.NAME")
        else:
            default = (
                "" if item.default is dataclasses.MISSING else yaml.safe_dump(to_plain(item.default)).split("\n")[0]
            )
            choices = item.metadata["choices"]
            possible = f" One of {', '.join(map(str, choices))}." if choices else ""
            rows.append((key, default, item.metadata["help"] + possible))
    return rows
