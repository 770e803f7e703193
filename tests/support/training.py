"""Stage jobs on small real models."""

import json
from pathlib import Path

from rich.console import Console

from switchkd.architecture.architecture import Architecture
from switchkd.data.index import Source, build_index
from switchkd.data.llava import Collator, LlavaDataset
from switchkd.preprocess import Preprocess
from switchkd.prompt import ChatPrompt
from switchkd.recipes.recipe import Data, Distillation, Stage
from switchkd.training.stages import StageJob, run_stage

QUIET = Console(quiet=True)


def stage_job(
    folder: Path, student: Path, data: tuple[Path, Path], *, teacher: Path | None = None, **settings
) -> StageJob:
    distillation = settings.pop("distillation", Distillation())
    processes = settings.pop("processes", 1)
    seed = settings.pop("seed", 0)
    deepspeed = settings.pop("deepspeed", None)
    stage = {"batch_size": 4, "steps": 4, "learning_rate": 1e-3, "log_every": 1, "save_every": 100} | settings
    return StageJob(
        title="test",
        folder=folder,
        student=student,
        teacher=teacher,
        data_file=data[0],
        images=data[1],
        cache=folder / "index",
        stage=Stage(distill=teacher is not None, **stage),
        distillation=distillation,
        data=Data(),
        seed=seed,
        deepspeed=deepspeed,
        processes=processes,
    )


def train(*arguments, **settings) -> Path:
    return run_stage(stage_job(*arguments, **settings), QUIET)


def write_mixed(folder: Path, road_scenes: Path) -> tuple[Path, Path]:
    """(file, image folder) of six records with pictures and of several turns, and two of text alone."""
    records = json.loads((road_scenes / "instruct.json").read_text())[:6]
    records += json.loads((road_scenes / "text.json").read_text())[:2]
    file = folder / "mixed.json"
    file.write_text(json.dumps(records))
    return file, road_scenes / "images"


def make_batch(folder: Path, data: tuple[Path, Path], rows=None) -> dict:
    """Records of a data file as a training step gets them."""
    prompt = ChatPrompt.load(folder)
    source = Source(*data, prompt, image_tokens=Architecture.read(folder).image_tokens, max_length=2048)
    dataset = LlavaDataset(source, build_index(source), Preprocess.load(folder))
    batch = Collator(0)([dataset[index] for index in (rows or range(len(dataset)))])
    batch.pop("bad")
    return batch


def losses(folder: Path, key: str = "loss") -> list[float]:
    log = json.loads((folder / "stage.json").read_text())["log"]
    return [entry[key] for entry in log if key in entry]
