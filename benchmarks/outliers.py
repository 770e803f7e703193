"""What a real model's outliers cost in every quantization: small random students with and without them, mean KL in nats.

OMP_NUM_THREADS=1 PYTHONPATH=tests python benchmarks/outliers.py gguf onnx
"""

import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from support.llava_models import make_checkpoint
from support.outliers import with_outliers

from switchkd.export.folder import ExportRequest, run_export
from switchkd.export.parity import ParityError

SHAPES: dict[str, dict[str, Any]] = {
    "SigLIP, tied head": {"tied": True, "feature_layer": -2},
    "CLIP, own head": {"vision": "clip-vit-large-patch14-336", "tied": False, "feature_layer": -1},
}
QUANTS = {"gguf": ("f16", "q8", "q4_k_m", "q4_0"), "onnx": ("fp16", "q8", "q4")}


def loss(checkpoint: Path, format: str, quant: str) -> str:
    """The mean KL from the checkpoint, also where the export is refused because of it."""
    with tempfile.TemporaryDirectory() as folder:
        request = ExportRequest(checkpoint, Path(folder, "out"), format=format, quant=quant, threads=1)
        try:
            return f"{run_export(request).parity['loss']['kl_mean']:.2g}"
        except ParityError as error:
            found = re.search(r"mean KL (\S+) nats", str(error))
            return f"{found[1]}, refused" if found else str(error)


def main() -> None:
    print("| student | format | quantization | without | with outliers |\n|---|---|---|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        for name, shape in SHAPES.items():
            usual = make_checkpoint(Path(folder, name), **shape)
            hard = with_outliers(usual, Path(folder, f"{name}, hard"))
            for format in sys.argv[1:] or QUANTS:
                for quant in QUANTS[format]:
                    row = name, format, quant, loss(usual, format, quant), loss(hard, format, quant)
                    print("|", " | ".join(row), "|", flush=True)


if __name__ == "__main__":
    main()
