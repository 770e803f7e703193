"""Recipes: the one place where every setting of a run has its name, default, range and help text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from switchkd.recipes.settings import setting

METHODS = ("fkl", "rkl", "bild-fkl", "bild-rkl", "dbild-fkl", "dbild-rkl")
PARTS = ("vision", "projector", "language")


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
    terms: Mapping[str, float] = setting(
        factory=dict,
        low=0,
        affects_result="if any",
        help="Weights of further loss terms, e.g. {NAME: 0.5}: files switchkd_terms/NAME.py on Python's path.",
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
        None,
        low=1,
        affects_result=False,
        help="Samples a process holds at once; the rest is accumulated. Default: its whole share.",
    )
    epochs: float = setting(1.0, low=0, help="Passes over the data.")
    steps: int | None = setting(None, low=1, help="Optimizer steps, instead of epochs.")
    schedule: str = setting("cosine", choices=("cosine", "linear", "constant_with_warmup"), help="Learning-rate curve.")
    warmup: float = setting(0.03, low=0, high=1, help="Share of the steps that the learning rate rises for.")
    weight_decay: float = setting(0.0, low=0, help="AdamW's weight decay.")
    beta2: float = setting(0.999, low=0, high=1, help="AdamW's second beta.")
    clip: float = setting(1.0, low=0, help="Largest gradient norm; 0 doesn't clip.")
    precision: str = setting("fp32", choices=("fp32", "bf16"), help="Arithmetic of forward and backward.")
    gradient_checkpointing: bool = setting(False, affects_result=False, help="Recompute activations to save memory.")
    group_by_length: bool = setting(
        True,
        help="Batches of samples of similar length: less padding. Where length tells what is asked, batches become one-sided "
        "and learning slower.",
    )
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
    pairs: int = setting(
        0, low=0, affects_result="if any", help="Questions about two pictures, in pairs.json and pairs_test.json."
    )


@dataclass(frozen=True)
class Data:
    """Where the samples come from."""

    source: str = setting("roadscenes", choices=("roadscenes", "files"), help="The built-in task, or files of yours.")
    folder: str = setting("", help="Where the paths of `files` start; empty is the current directory.")
    sets: Mapping[str, DataSet] = setting(factory=dict, help="Named sets that stages refer to.")
    validation: str = setting("val.json", help="Questions for choosing settings.")
    test: str = setting("test.json", help="Questions for the final figures.")
    test_images: str = setting("images", help="Folder that the questions' image paths start from.")
    max_length: int = setting(2048, low=8, help="Longest sample in tokens; longer ones are counted as unusable.")
    verify: str = setting(
        "full", choices=("full", "header"), help="Decode every picture once before training, or read headers only."
    )
    max_bad: float = setting(0.01, low=0, high=1, help="Share of unusable records above which a run stops.")
    follow_links: bool = setting(False, help="Links in the picture folders may lead out of them, to another disk.")


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
        help="A LLaVA folder, hub name or asset:NAME that the model starts from; a teacher without stages is taken as it is. Set "
        "on the command line, or on top of what a recipe extends, it takes the place of the parts, a teacher's of its stages too.",
    )
    vision: str = setting("", help="Vision part: folder, hub name, asset:NAME or part:NAME.")
    language: str = setting("", help="Language part: folder, hub name, asset:NAME or part:NAME.")
    feature_layer: int = setting(-1, help="Hidden layer of the tower that feeds the projector.")
    feature_select: str | None = setting(
        None,
        choices=("default", "full"),
        help="Without the tower's first token, or all of them; every patch where not given.",
    )
    projector: str | None = setting(None, help="Family of the new projector; LLaVA's two layers where not given.")
    projector_settings: Mapping[str, Any] = setting(factory=dict, help="What that family is set by.")
    template: str | None = setting(None, help="Form of chats; what the tokenizer has tokens for where not given.")
    pictures: str | None = setting(
        None, choices=("pad",), help="Pasted on a square; as the tower's own where not given."
    )
    stages: tuple[str, ...] = setting((), help="Stages that train it, in order.")
    baseline: tuple[str, ...] = setting((), help="Stages of its undistilled twin (`skd train`), in order.")


# What of a model says how its two parts are put together.
COMPOSED = ("feature_layer", "feature_select", "projector", "projector_settings", "template", "pictures")


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
