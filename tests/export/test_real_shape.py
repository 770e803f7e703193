"""A student of the real shape, with random weights: it exports in bounded memory, and what comes out generates."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from llava_models import picture, question

from switchkd.manifest import Manifest
from switchkd.runtime.variants import open_engine

MAKE = """
import sys
import torch
from pathlib import Path
from switchkd.models.init import from_shapes
from switchkd.models.vlm import save_vlm

vlm, processor = from_shapes("siglip-so400m-patch14-384", "qwen2.5-0.5b", feature_layer=-2)
torch.manual_seed(0)
for name, parameter in vlm.named_parameters():
    if parameter.ndim == 1:
        parameter.data += 0.02 * torch.randn_like(parameter)
save_vlm(vlm.to(torch.bfloat16), Path(sys.argv[1]), processor)
"""
EXPORT = """
import json, resource, sys, time
from pathlib import Path
from switchkd.export.folder import ExportRequest, run_export

start, marks = time.time(), []
def progress(text):
    marks.append((round(time.time() - start), text, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10))
run_export(ExportRequest(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4], threads=1), progress)
progress("done")
print(json.dumps({"seconds": time.time() - start, "peak_mib": marks[-1][2], "marks": marks}))
"""


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    folder = tmp_path_factory.mktemp("real") / "student"
    subprocess.run([sys.executable, "-c", MAKE, folder], check=True)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "format, quant, meant", [("gguf", "q4", "q4_0"), ("onnx", "q4", "q4"), ("onnx", "q8", "q8")], ids=str
)
def test_half_a_billion_parameters(student, tmp_path, format, quant, meant):
    out = tmp_path / f"student-{format}-{quant}"
    command = [sys.executable, "-c", EXPORT, student, out, format, quant]
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    measured = json.loads(result.stdout.splitlines()[-1])
    manifest = Manifest.load(out)
    report(measured, manifest)
    assert measured["peak_mib"] < 16 * 1024
    assert manifest.quant == meant and manifest.image.tokens == 729
    with open_engine(out, threads=1, verify=False) as engine:
        engine.end_tokens = frozenset()
        ids, features = engine.encode_prompt(question()), engine.encode_image(picture())
        assert features.shape == (729, 896)
        assert len(list(engine.tokens(ids, features, max_new_tokens=8))) == 8
        print(engine.timings)


def report(measured: dict, manifest: Manifest) -> None:
    """For docs/results/; shown by pytest -s."""
    print(json.dumps(measured, indent=1))
    print(json.dumps(manifest.parity, indent=1))
    for name, entry in manifest.files.items():
        types = {kind: (count.count, round(count.bytes / 1e6)) for kind, count in entry.tensor_types.items()}
        print(Path(name).name, f"{entry.bytes / 1e6:.0f} MB", types)
