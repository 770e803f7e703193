"""A finished run on pictures of one colour each, whose answers are known."""

import contextlib
import json
from functools import cache
from pathlib import Path

import numpy as np
import yaml
from click.testing import CliRunner
from PIL import Image

from switchkd.cli.main import main

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220)}


def coloured_records(folder: Path, split: str, number: int) -> list[dict]:
    """Pictures of three colours with a little noise. The second question's answer can't be seen in the picture."""
    draw = np.random.default_rng(len(split))
    (folder / split).mkdir()
    records = []
    for index in range(number):
        name, colour = list(COLOURS.items())[index % 3]
        pixels = np.clip(np.array(colour) + draw.integers(-25, 26, (12, 12, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / split / f"{index}.png")
        turns = [("<image>\nWhat colour is it?", name), ("Was it a Monday?", str(draw.choice(["Yes.", "No."])))]
        turns.append(("Describe it.", f"It is number {index} of the {name} ones."))
        conversation = [
            {"from": speaker, "value": text}
            for pair in (turns if split == "train" else turns[:1])
            for speaker, text in zip(("human", "gpt"), pair, strict=True)
        ]
        records.append({"id": f"{split}{index}", "image": f"{split}/{index}.png", "conversations": conversation})
    return records


@cache
def finish_run(folder: Path, teacher_folder: Path, student_folder: Path) -> tuple[Path, str]:
    """Once for all tests: (`folder`, in which `runs/latest` is a run with a ready teacher, a baseline and a student;
    what `skd distill` said)."""
    folder.mkdir()
    for split, number in (("train", 120), ("val", 45), ("test", 9)):
        (folder / f"{split}.json").write_text(json.dumps(coloured_records(folder, split, number)))
    tune = {"data": "finetune", "steps": 2, "batch_size": 4}
    recipe = {
        "name": "small",
        "compare": True,
        "data": {
            "source": "files",
            "folder": str(folder),
            "sets": {"finetune": {"file": "train.json", "images": "."}},
            **{"validation": "val.json", "test": "test.json", "test_images": ".", "max_length": 1024},
        },
        "teacher": {"checkpoint": str(teacher_folder)},
        "student": {"checkpoint": str(student_folder), "stages": ["pt", "dft"], "baseline": ["pt", "sft"]},
        "stages": {"pt": tune | {"trainable": ["projector"]}, "sft": tune, "dft": tune | {"distill": True}},
    }
    (folder / "small.yaml").write_text(yaml.safe_dump(recipe))
    with contextlib.chdir(folder):
        result = CliRunner().invoke(main, ["distill", "--recipe", "small.yaml"])
        assert result.exit_code == 0, (result.output, result.exception)
    return folder, result.output
