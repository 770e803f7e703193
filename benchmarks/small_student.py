"""A small random student with an export in every precision, to be run on other processors; used by processors.sh.

python benchmarks/small_student.py FOLDER
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from switchkd.export.folder import ExportRequest, run_export

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from support.llava_models import make_checkpoint

EXPORTS = (("onnx", "q8"), ("onnx", "q4"), ("onnx", "fp16"), ("onnx", "fp32"), ("gguf", "q4"), ("gguf", "q8"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    student = folder / "student"
    if not student.exists():
        folder.mkdir(parents=True, exist_ok=True)
        make_checkpoint(student)
    for kind, quant in EXPORTS:
        out = folder / f"{kind}-{quant}"
        run_export(ExportRequest(student, out, format=kind, quant=quant, threads=1, force=True))
        print(out, flush=True)


if __name__ == "__main__":
    main()
