"""A run: one folder in which data, parts, teacher and students are made, each only once for the same settings."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from rich.console import Console
from transformers import AutoConfig

from switchkd.architecture.families import NEW
from switchkd.architecture.references import resolve_checkpoint
from switchkd.data.roadscenes import corpus, write_roadscenes
from switchkd.errors import RecipeError, SkdError
from switchkd.files import file_sha256, folder_sha256, point_to, replacing_folder, write_text
from switchkd.models.compatibility import check_compatibility
from switchkd.models.environment import quiet
from switchkd.models.init import from_checkpoints
from switchkd.models.llava_processor import load_tokenizer
from switchkd.models.tokenizer import save_tokenizer, train_tokenizer
from switchkd.models.vlm import assemble, load_language, load_vlm, save_part, save_vlm
from switchkd.recipes.recipe import COMPOSED, DataSet, Distillation, Model, Part, Recipe, Stage
from switchkd.recipes.settings import result_settings, to_plain
from switchkd.runs import RUNS, STAGE_RECORD
from switchkd.training.checkpoints import INPUTS, newest_checkpoint, tell_orphans
from switchkd.training.inputs import require_file
from switchkd.training.launch import run_distributed
from switchkd.training.run_links import RunLinks
from switchkd.training.stages import StageJob, run_stage
from switchkd.training.teacher_sample import ask_teacher

# Sentences that the small tokenizer is learned from.
_TOKENIZER_SENTENCES = 4000


@dataclass(frozen=True)
class _Settings:
    """What may differ between models of one recipe."""

    distillation: Distillation
    seed: int  # of the new projector and of the sample order


class Run:
    """Makes what a recipe asks for, in order, reusing what is already there.

    Args:
        folder: the run's folder; made where missing.
        recipe: what to make.
        processes: training processes; above 0 they are started by torchrun with DeepSpeed ZeRO-2, 0 trains right here.
        restart: throw interrupted stages away instead of going on with them.
    """

    def __init__(self, folder: Path, recipe: Recipe, console: Console, *, processes: int = 0, restart: bool = False):
        self.folder, self.recipe, self.console = folder, recipe, console
        self._processes, self.restart = processes, restart
        self._made: dict[str, Path] = {}
        self._asked: set[str] = set()  # data sets that the teacher was asked about
        quiet()
        try:
            (folder / "stages").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SkdError(f"The run's folder {folder} can't be made: {error.strerror}.") from error
        self._links = RunLinks(folder, recipe)

    def succeeded(self) -> None:
        """All that was asked for is there: commands that name no run take this one from now on."""
        if self.folder.parent == RUNS:
            point_to(RUNS / "latest", self.folder)

    # Data ----------------------------------------------------------------------------------------------------------

    def data(self) -> Path:
        """The folder that relative data paths start from; makes the built-in task where the recipe wants it."""
        if self.recipe.data.source == "files":
            return Path(self.recipe.data.folder or ".")
        settings = to_plain(self.recipe.roadscenes)
        folder = self.folder / "stages" / f"data-{_fingerprint(result_settings(self.recipe.roadscenes))}"
        if not folder.exists():
            with self.console.status("drawing road scenes"):
                write_roadscenes(folder, **settings)
        self._links.point("data", folder)
        return folder

    def data_set(self, name: str) -> tuple[Path, Path]:
        """File and image folder of a named data set."""
        entry: DataSet = self.recipe.data.sets[name]
        return self.data() / entry.file, self.data() / entry.images

    def questions(self, split: str) -> tuple[Path, Path]:
        """Question file and picture folder of the split `test` or `validation`."""
        data = self.recipe.data
        return self.data() / getattr(data, split), self.data() / data.test_images

    # Models --------------------------------------------------------------------------------------------------------

    def teacher(self) -> Path:
        """The teacher's folder: a ready checkpoint as it is, or trained here by the recipe's stages."""
        teacher = self.recipe.teacher
        return self._once("teacher", lambda: self._model("teacher", teacher, teacher.stages, self._settings))

    def student(self) -> Path:
        """The distilled student's folder."""
        return self._once("student", lambda: self.train_student(self.recipe.student.stages))

    def baseline(self) -> Path:
        """The student's undistilled twin."""
        return self._once("baseline", lambda: self.train_student(self.recipe.student.baseline))

    def finished_baseline(self) -> Path | None:
        """The undistilled twin where it was trained here before; nothing is trained now."""
        model = self._start("student", self.recipe.student, (), self._settings)
        for name in self.recipe.student.baseline:
            try:
                folder, _ = self._stage_place("student", name, model, self._settings)
            except RecipeError:  # its data aren't here, so it wasn't trained on them
                return None
            if not (folder / STAGE_RECORD).exists():
                return None
            model = folder / "model"
        return self._once("baseline", lambda: model) if self.recipe.student.baseline else None

    def train_student(
        self, stages: tuple[str, ...], *, distillation: Distillation | None = None, seed: int | None = None
    ) -> Path:
        """A student trained by other stages, another objective or from another seed than the recipe's."""
        settings = _Settings(distillation or self.recipe.distillation, self.recipe.seed if seed is None else seed)
        return self._model("student", self.recipe.student, stages, settings)

    def check_student(self) -> None:
        """Before any training, a twin's included: whether the student can learn from its teacher, and what that one knows."""
        self._start("student", self.recipe.student, self.recipe.student.stages, self._settings)

    def part(self, name: str) -> Path:
        """A part that the recipe trains from nothing."""
        return self._once(f"parts/{name}", lambda: self._part(name, self.recipe.parts[name]))

    def _once(self, name: str, make: Callable[[], Path]) -> Path:
        if name not in self._made:
            self._made[name] = make()
            if self._made[name].is_relative_to(self.folder):
                self._links.point(name, self._made[name])
        return self._made[name]

    @property
    def _settings(self) -> _Settings:
        return _Settings(self.recipe.distillation, self.recipe.seed)

    def _model(self, role: str, model: Model, stages: tuple[str, ...], settings: _Settings) -> Path:
        return self._train(role, self._start(role, model, stages, settings), stages, settings)

    def _start(self, role: str, model: Model, stages: tuple[str, ...], settings: _Settings) -> Path:
        """The model before its first stage. What speaks against distilling it is found out now, not after the hours of an
        undistilled first stage."""
        if model.checkpoint:
            start = self._resolve(model.checkpoint)
        elif model.vision and model.language:
            start = self._assemble(role, model, settings.seed)
        else:
            raise RecipeError(f"{role} needs a checkpoint, or a vision and a language part.")
        distilling = [name for name in stages if self.recipe.stages[name].distill]
        if distilling:
            check_compatibility(self.teacher(), start)
            self._ask_teacher(self.recipe.stages[distilling[0]].data)
        return start

    def _ask_teacher(self, data: str) -> None:
        """A teacher that knows nothing of the task spoils the student, and no loss shows it."""
        training, test = self.data_set(data), self.questions("test")
        if data not in self._asked and training[0].is_file():
            self._asked.add(data)
            asked, habits = (test, training[0]) if test[0].is_file() else (training, None)
            kept = self.folder / "reports" / "answers"
            ask_teacher(self.teacher(), asked, kept, self.console, training=habits)

    def _resolve(self, reference: str) -> Path:
        kind, _, name = reference.partition(":")
        if kind == "part":
            return self.part(name)
        return resolve_checkpoint(reference)

    def _assemble(self, role: str, model: Model, seed: int) -> Path:
        vision, language = self._resolve(model.vision), self._resolve(model.language)
        said = {name: getattr(model, name) for name in COMPOSED}
        settings: dict[str, Any] = {name: value for name, value in said.items() if value not in (None, {})}
        settings["seed"] = seed
        inputs = {"vision": folder_sha256(vision), "language": folder_sha256(language), **settings}
        return self._build_start(role, inputs, lambda: from_checkpoints(str(vision), str(language), **settings))

    def _part(self, name: str, part: Part) -> Path:
        """A part is trained inside a whole model of which the rest is thrown away."""
        if part.kind == "language":
            inputs: dict[str, Any] = {"language": dict(part.shape), "vision": dict(part.vision)}
            language: Any = lambda: _new_config("language", self._with_rows(part.shape))  # noqa: E731
            vision_shape = part.vision
        else:
            companion = self.part(part.language)
            inputs = {"vision": dict(part.shape), "language": folder_sha256(companion)}
            language = lambda: load_language(companion)  # noqa: E731
            vision_shape = part.shape
        inputs |= {"seed": self.recipe.seed, "rows": self.recipe.tokenizer_rows}

        def build() -> Any:
            return assemble(_new_config("vision", vision_shape), language(), load_tokenizer(self._tokenizer()))

        start = self._build_start(name, inputs, build)
        trained = self._train(name, start, part.stages, self._settings)
        target = trained.parent / part.kind
        if not target.exists():
            save_part(load_vlm(trained), part.kind, target, trained)
        return target

    def _with_rows(self, shape: Any) -> dict[str, Any]:
        return {"vocab_size": self.recipe.tokenizer_rows, **shape}

    def _tokenizer(self) -> Path:
        folder = self.folder / "stages" / f"tokenizer-{self.recipe.tokenizer_rows}"
        if not folder.exists():
            with replacing_folder(folder) as partial:
                sentences = corpus(self.recipe.roadscenes.seed, _TOKENIZER_SENTENCES)
                save_tokenizer(train_tokenizer(sentences, self.recipe.tokenizer_rows), partial)
        return folder

    def _build_start(self, role: str, inputs: dict[str, Any], build: Callable[[], Any]) -> Path:
        folder = self.folder / "stages" / f"{role}-start-{_fingerprint(inputs)}" / "model"
        if not folder.exists():
            torch.manual_seed(inputs["seed"])
            vlm, processor = build()
            save_vlm(vlm, folder, processor)
        return folder

    # Stages --------------------------------------------------------------------------------------------------------

    def _train(self, role: str, start: Path, stages: tuple[str, ...], settings: _Settings) -> Path:
        model = start
        for name in stages:
            model = self._stage(role, name, model, settings)
        return model

    def _stage_place(self, role: str, name: str, student: Path, settings: _Settings) -> tuple[Path, dict[str, Any]]:
        """The folder of stage `name` on the model folder `student`, and what it is named by."""
        stage = self.recipe.stages[name]
        teacher = self.teacher() if stage.distill else None
        file = require_file(self.recipe, name, self.data())
        inputs = {
            "stage": result_settings(stage),
            "distillation": result_settings(settings.distillation) if teacher else None,
            "student": folder_sha256(student),
            "teacher": teacher and folder_sha256(teacher),
            "data": file_sha256(file),
            "max_length": self.recipe.data.max_length,
            "seed": settings.seed,
        }
        return self._stage_folder(f"{role}-{name}", stage, inputs), inputs

    def _stage(self, role: str, name: str, student: Path, settings: _Settings) -> Path:
        """Runs stage `name` on the model folder `student`, unless its result is already there."""
        stage = self.recipe.stages[name]
        folder, inputs = self._stage_place(role, name, student, settings)
        if (folder / STAGE_RECORD).exists():
            return folder / "model"
        file, images = self.data_set(stage.data)
        if settings == self._settings and newest_checkpoint(folder / "checkpoints") is None:
            for line in tell_orphans(self.folder / "stages", f"{role}-{name}", inputs):
                self.console.print(line, markup=False, highlight=False, soft_wrap=True)
        job = StageJob(
            title=f"{role} {name}",
            folder=folder,
            student=student,
            teacher=self.teacher() if stage.distill else None,
            data_file=file,
            images=images,
            cache=self.folder / "data-index",
            stage=stage,
            distillation=settings.distillation,
            data=self.recipe.data,
            seed=settings.seed,
            deepspeed=str(resources.files("switchkd.recipes") / "deepspeed" / "zero2.json")
            if self._processes
            else None,
            processes=max(1, self._processes),
        )
        try:
            # Two processes that write the same checkpoints would spoil both.
            with FileLock(folder.with_name(f"{folder.name}.lock"), timeout=0):
                if self.restart:
                    shutil.rmtree(folder, ignore_errors=True)
                write_text(folder / INPUTS, json.dumps(inputs, indent=1) + "\n")
                return run_distributed(job, self.console) if self._processes else run_stage(job, self.console)
        except Timeout as error:
            raise SkdError(
                f"Stage '{name}' of {self.folder} is being trained by another process: wait for it, or use another --run."
            ) from error

    def _stage_folder(self, prefix: str, stage: Stage, inputs: dict[str, Any]) -> Path:
        """The stage's own folder; what was begun before `micro_batch` and its like stopped counting lies under another name."""
        folder = self.folder / "stages" / f"{prefix}-{_fingerprint(inputs)}"
        spared = {"micro_batch": stage.micro_batch, "gradient_checkpointing": stage.gradient_checkpointing}
        older = folder.with_name(f"{prefix}-{_fingerprint(inputs | {'stage': inputs['stage'] | spared})}")
        return older if older.exists() and not folder.exists() else folder


def _fingerprint(inputs: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:12]


def _new_config(kind: str, shape: Mapping[str, Any]) -> Any:
    """The transformers configuration of a part that is trained from nothing."""
    return AutoConfig.for_model(**{"model_type": NEW[kind], **shape})
