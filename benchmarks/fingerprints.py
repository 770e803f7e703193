"""Hashes of every export's weight files and loss traces of every recipe's stages: what a change of structure must leave alone.

python benchmarks/fingerprints.py FOLDER > before.json     (the checkpoints in FOLDER are made once, and used again)
python benchmarks/fingerprints.py FOLDER > after.json      and then: diff before.json after.json
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from support.llava_models import make_checkpoint

CHECKPOINTS: dict[str, dict[str, Any]] = {
    "siglip-tied": {"feature_layer": -2},
    "clip-untied": {"vision": "clip-vit-large-patch14-336", "tied": False, "feature_layer": -2},
    "siglip-base-last": {"vision": "siglip-base-patch16-384", "width": 128, "vision_width": 64, "seed": 3},
}
TEACHER: dict[str, dict[str, Any]] = {"teacher": {"width": 128, "feature_layer": -2, "seed": 5}}
# Format → precisions of the language model, with those of the vision part.
EXPORTS = {
    "gguf": ("q4", "q4_0", "q4_mixed", "q4_k_m", "q5_k_m", "q8", "f16", "f32", "q8+q8_0", "q4_0+q4_0"),
    "onnx": ("q4", "q8", "fp16", "fp32", "q4+fp16"),
    "hybrid": ("q4", "q8+fp16", "f16+fp32"),
}
RECIPES = ("roadscenes", "tinyllava-0.5b", "tinyllava-1.5b")
_TIMED = ("runtime", "per_second", "flos", "time")
SKD = Path(sys.executable).with_name("skd")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", choices=("exports", "recipes"))
    given = parser.parse_args()
    found: dict[str, Any] = {}
    for name, shape in (CHECKPOINTS | TEACHER).items():
        folder = given.folder / name
        if not folder.exists():
            given.folder.mkdir(parents=True, exist_ok=True)
            make_checkpoint(folder, **shape)
        if given.only != "recipes" and name in CHECKPOINTS:
            for format, quants in EXPORTS.items():
                for quant in quants:
                    found[f"{name} {format} {quant}"] = export(folder, format, quant)
                    print(name, format, quant, file=sys.stderr, flush=True)
    if given.only != "exports":
        for recipe in RECIPES:
            found |= {f"{recipe} {stage}": log for stage, log in trace(recipe, given.folder).items()}
            print(recipe, file=sys.stderr, flush=True)
    print(json.dumps(found, indent=1))


def export(checkpoint: Path, format: str, quant: str) -> dict[str, str] | str:
    """File → hash of its weights, or why there is none."""
    with tempfile.TemporaryDirectory() as work:
        out = Path(work, "out")
        language, _, vision = quant.partition("+")
        command: list[str | Path] = [SKD, "export", checkpoint, "--format", format, "--quant", language]
        command += ["--out", out, "--threads", "1"]
        ended = subprocess.run(
            [*command, *(["--vision-quant", vision] if vision else [])], capture_output=True, text=True
        )
        if ended.returncode:
            return ended.stderr.strip().splitlines()[-1]
        files = json.loads((out / "manifest.json").read_text())["files"]
        return {
            name: graph_hash(out / name) if name.endswith(".onnx") else entry["sha256"]
            for name, entry in files.items()
            if entry["role"] or name.endswith("_data")
        }


def graph_hash(path: Path) -> str:
    """Hash of a graph without its writer's version, for which onnxruntime-genai takes the commit of the working directory."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    model.producer_version = ""
    return sha256(model.SerializeToString(deterministic=True)).hexdigest()


def trace(recipe: str, folder: Path) -> dict[str, list[dict[str, float]]]:
    """Stage → its log without times, of four steps of each of the recipe's stages on the built-in task."""
    scenes = {"train": 48, "val": 4, "test": 4, "text": 8}
    settings = ["compare=true", *(f"roadscenes.{name}={count}" for name, count in scenes.items())]
    if recipe != "roadscenes":
        student = folder / "siglip-tied"
        settings += ["data.source=roadscenes", f"teacher.checkpoint={folder / 'teacher'}"]
        settings += [
            'student.vision=""',
            'student.language=""',
            f"student.checkpoint={student}",
            "data.max_length=2048",
        ]
        for name, file in (("pretrain", "captions.json"), ("finetune", "instruct.json")):
            settings += [f"data.sets.{name}.file={file}", f"data.sets.{name}.images=images"]
    for stage in ("pt", "sft", "dft"):
        wanted = {"steps": 4, "batch_size": 8, "micro_batch": 4, "workers": 0, "log_every": 1}
        settings += [f"stages.{stage}.{name}={value}" for name, value in wanted.items()]
    with tempfile.TemporaryDirectory() as work:
        run = Path(work, "run")
        command: list[str | Path] = [SKD, "distill", "--recipe", recipe, "--run", run]
        ended = subprocess.run(
            [*command, *(word for each in settings for word in ("--set", each))], capture_output=True, text=True
        )
        if ended.returncode:
            sys.exit(f"{recipe}: {ended.stdout[-2000:]} {ended.stderr[-2000:]}")
        found = {}
        for path in sorted(run.glob("stages/*/stage.json")):
            log = json.loads(path.read_text())["log"]
            name = path.parent.name.rpartition("-")[0]
            found[name] = [{k: v for k, v in entry.items() if not any(word in k for word in _TIMED)} for entry in log]
        return found


if __name__ == "__main__":
    main()
