"""A student of the real shape in every variant, for `benchmarks/runtime.py` to time.

    nice -n 15 python benchmarks/real_shape.py bench --threads 1

makes bench/student, SigLIP so400m/14-384 and Qwen2.5-0.5B with random weights and biases, and beside it one export for
each of `VARIANTS`; what is there already is not made again. Each is a whole export with its proof, on one picture instead
of four, in a process of its own; bench/exports.json has its seconds and its memory.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from switchkd.runtime.bench.memory import resident

VARIANTS = ("onnx-q8", "onnx-q4", "gguf-q4", "hybrid-q4", "onnx-fp32", "gguf-f16", "gguf-q8", "onnx-fp16", "hybrid-q8")
STUDENT = """
import sys
from pathlib import Path

import torch

from switchkd.models.init import from_shapes
from switchkd.models.vlm import save_vlm

vlm, processor = from_shapes("siglip-so400m-patch14-384", "qwen2.5-0.5b", feature_layer=-2)
torch.manual_seed(0)
for parameter in vlm.parameters():
    if parameter.ndim == 1:  # exporters may drop biases of zero
        parameter.data += 0.02 * torch.randn_like(parameter)
save_vlm(vlm.to(torch.bfloat16), Path(sys.argv[1]), processor)
"""
EXPORT = """
import json, sys, time
from pathlib import Path

from switchkd.export.folder import ExportRequest, run_export
from switchkd.export.samples import synthetic_samples

student, out, format, quant, threads = sys.argv[1:]
start, marks = time.time(), {}
def progress(text):
    marks[text] = round(time.time() - start)
run_export(
    ExportRequest(Path(student), Path(out), format, quant, held_out=synthetic_samples(1), threads=int(threads)), progress
)
print(json.dumps({"seconds": round(time.time() - start), "began": marks}))
"""
_LOOK_EVERY = 0.2  # seconds between two looks at an export's memory


def main() -> None:
    parser = argparse.ArgumentParser(description="A real-shape student and its exports, for benchmarks/runtime.py.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    student = options.folder / "student"
    if not student.exists():
        subprocess.run([sys.executable, "-c", STUDENT, student], check=True)
    for variant in options.variants:
        if not (options.folder / variant).exists():
            note(options.folder / "exports.json", variant, export(student, variant, options.threads))


def export(student: Path, variant: str, threads: int) -> dict[str, object]:
    """Makes one export; its seconds, memory, and when each part of it began."""
    command: list[str | Path] = [sys.executable, "-c", EXPORT, student, student.with_name(variant)]
    command += [*variant.split("-"), str(threads)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        peak = 0
        while process.poll() is None:
            peak = max(peak, resident(process.pid) or 0)  # with the processes that it starts
            time.sleep(_LOOK_EVERY)
        assert process.stdout is not None
        lines = process.stdout.read().splitlines()
    if process.returncode:
        raise SystemExit(f"{variant} couldn't be made; see above")
    return {**json.loads(lines[-1]), "peak_mib": peak >> 20, "threads": threads, "load": os.getloadavg()[0]}


def note(path: Path, variant: str, figures: dict[str, object]) -> None:
    """Adds an export's figures to those of the others."""
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**known, variant: figures}, indent=1) + "\n")
    print(variant, figures, flush=True)


if __name__ == "__main__":
    main()
