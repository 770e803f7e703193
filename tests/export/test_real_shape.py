"""A student of the real shape, with random weights: it exports in bounded memory, and what comes out generates."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.llava_models import picture, question

from switchkd.manifest import Manifest
from switchkd.runtime.engines.opening import open_engine

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "real_shape.py"


@pytest.fixture(scope="module")
def real_shape():
    """The benchmark's own script, which makes the student and exports it."""
    spec = importlib.util.spec_from_file_location("real_shape", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def student(tmp_path_factory, real_shape):
    folder = tmp_path_factory.mktemp("real") / "student"
    subprocess.run([sys.executable, "-c", real_shape.STUDENT, folder], check=True)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "variant, meant",
    [("gguf-q4", "q4_mixed"), ("onnx-q4", "q4"), ("onnx-q8", "q8"), ("hybrid-q4", "q4_mixed")],
    ids=str,
)
def test_half_a_billion_parameters(real_shape, student, variant, meant):
    measured = real_shape.export(student, variant, threads=1)
    out = student.with_name(variant)
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
