"""A variant's workload out of its own files, and this computer's measured profile."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from switchkd.errors import SkdError
from switchkd.files import file_sha256
from switchkd.hardware.profile import FIELDS
from switchkd.manifest import FileEntry, ImageTokens, Manifest, ManifestError, Origin, TensorCount
from switchkd.models.shapes import load_shape
from switchkd.runtime.computer import measure
from switchkd.runtime.computer import profile as probe
from switchkd.runtime.computer.onnx_bytes import LARGEST_WEIGHT, int8_product
from switchkd.runtime.computer.workloads import read_workload


def make_export(
    folder: Path, *, vision="siglip-so400m-patch14-384", tied=True, layer=-2, files=None, entries=None, **settings
) -> Path:
    """An export of the real shapes whose weights are a few bytes; sizes are what the manifest says of tensors."""
    folder.mkdir()
    config = {
        "model_type": "llava",
        "tie_word_embeddings": tied,
        "vision_feature_layer": layer,
        "vision_feature_select_strategy": "full" if "siglip" in vision else "default",
        "vision_config": load_shape(vision),
        "text_config": load_shape("qwen2.5-0.5b") | {"tie_word_embeddings": tied},
        **(entries or {}),
    }
    (folder / "config.json").write_text(json.dumps(config))
    files = files or {"language.gguf": ("language", 350_000_000), "mmproj.gguf": ("vision", 802_000_000)}
    listed = {}
    for name, (role, size) in {**files, "config.json": ("", 0)}.items():
        path = folder / name
        if role:
            path.write_bytes(b"weights")
        types = {"Q4_0": TensorCount(1, size)} if size else {}
        listed[name] = FileEntry(role, path.stat().st_size, file_sha256(path), types)
    image = ImageTokens(729 if "siglip" in vision else 576, "<image>", 1)
    known = {"format": "gguf", "quant": "q4_0", "vision_quant": "f16", "context": 32768} | settings
    Manifest(
        source=Origin("student", "0" * 64),
        tools={},
        files=listed,
        image=image,
        prompt_template="",
        end_tokens=[],
        parity={},
        **known,
    ).save(folder)
    return folder


@pytest.mark.parametrize(
    ("width", "quant", "blocks"),
    [
        (256, "q4_k_m", "q4_k"),
        (256, "q5_k_m", "q5_k"),
        (96, "q4_k_m", "q5_0"),
        (96, "q4_mixed", "q5_0"),
        (96, "q4", "q5_1"),
        (96, "q5_k_m", "q5_1"),
        (96, "q4_0", ""),
        (96, "q8", ""),
    ],
)
def test_a_mixtures_speed_is_that_of_what_it_holds(shelf, width, quant, blocks):
    """At 0.5B's width "q4_k_m" is mostly Q5_0, which llama.cpp computes three times as slowly as Q4_K."""
    text = read_workload(shelf.export("gguf", quant, width=width)).text
    assert text.blocks == blocks and text.kernel


def test_shapes_and_bytes_come_from_the_folder(tmp_path):
    work = read_workload(make_export(tmp_path / "export"))
    assert asdict(work.language) == {
        **{
            "layers": 24,
            "width": 896,
            "feed_forward": 4864,
            "heads": 14,
            "kv_heads": 2,
            "head_width": 64,
            "rows": 151936,
        },
    }
    assert (work.tower.layers, work.tower.width, work.tower.tokens) == (26, 1152, 729)
    assert work.tower.projector_macs == 729 * (1152 * 896 + 896**2) == 729 * work.tower.projector_weights
    assert (work.text.bytes, work.image.bytes, work.image_tokens, work.cache_bytes) == (
        350_000_000,
        802_000_000,
        729,
        2,
    )
    assert (work.text.format, work.text.quant, work.image.quant) == ("gguf", "q4_0", "f16")
    assert work.name == "export" and work.trained_context == 32768


@pytest.mark.parametrize(("layer", "blocks"), [(-1, 24), (-2, 23), (1, 1), ([-2, 3], 23)])
def test_blocks_after_the_chosen_layer_are_not_computed(tmp_path, layer, blocks):
    work = read_workload(make_export(tmp_path / "export", vision="clip-vit-large-patch14-336", layer=layer))
    assert work.tower.layers == blocks
    assert work.tower.tokens == 577 and work.image_tokens == 576  # the class token is computed and left out
    assert work.tower.projector_weights == 1024 * (2 if isinstance(layer, list) else 1) * 896 + 896**2


@pytest.mark.parametrize(
    ("projector", "weights", "macs"),
    [
        ({"projector_type": "mlp1"}, 1024 * 896, 576 * 1024 * 896),
        ({"projector_type": "mlp3"}, (1024 + 2 * 896) * 896, 576 * (1024 + 2 * 896) * 896),
        # Two layers of all patches, then nine values of each channel for a quarter of them.
        ({"projector_type": "ldpv2"}, (1024 + 896 + 9) * 896, 576 * (1024 + 896) * 896 + 144 * 9 * 896),
        ({"projector_type": "pixel_shuffle"}, 4 * 1024 * 896, 144 * 4 * 1024 * 896),
        (
            {"projector_type": "pixel_shuffle", "projector_factor": 3, "projector_layers": 2},
            (9 * 1024 + 896) * 896,
            64 * (9 * 1024 + 896) * 896,
        ),
        ({"projector_type": "average_pool", "projector_factor": 4}, (1024 + 896) * 896, 36 * (1024 + 896) * 896),
    ],
)
def test_a_projector_is_counted_by_what_it_does(tmp_path, projector, weights, macs):
    vision = "clip-vit-large-patch14-336"
    work = read_workload(make_export(tmp_path / "export", vision=vision, entries=projector))
    assert (work.tower.projector_weights, work.tower.projector_macs) == (weights, macs)
    plain = read_workload(make_export(tmp_path / "plain", vision=vision)).encode().macs
    assert work.encode().macs - plain == macs - 576 * (1024 * 896 + 896**2)


def test_an_untied_embedding_is_kept_but_not_read(tmp_path):
    tied = read_workload(make_export(tmp_path / "tied"))
    untied = read_workload(make_export(tmp_path / "untied", tied=False))
    language = tied.language
    share = language.token_weights / (language.token_weights + language.head_weights)
    assert untied.text.bytes == pytest.approx(share * tied.text.bytes, abs=2)
    assert untied.text.resident == tied.text.resident


def test_each_file_runs_in_the_runtime_of_its_format(tmp_path):
    files = {"language.gguf": ("language", 10), "vision.onnx": ("vision", 20)}
    work = read_workload(make_export(tmp_path / "mixed", files=files, vision_quant="q8"))
    assert (work.text.format, work.image.format, work.image.quant) == ("gguf", "onnx", "q8")
    files = {"d.onnx": ("language", 10), "v.onnx": ("vision", 20), "e.onnx": ("embedding", 5)}
    work = read_workload(make_export(tmp_path / "onnx", files=files, format="onnx", quant="q8"))
    assert work.text.bytes == 10 and work.text.resident == 2 * len(b"weights") and work.cache_bytes == 4


def test_an_embeddings_data_file_counts(tmp_path):
    files = {
        name: (role, 10) for name, role in {"d.onnx": "language", "v.onnx": "vision", "e.onnx": "embedding"}.items()
    }
    one = read_workload(make_export(tmp_path / "one", files=files, format="onnx", quant="fp32"))
    files |= {"e.onnx_data": ("data", 10)}
    two = read_workload(make_export(tmp_path / "two", files=files, format="onnx", quant="fp32"))
    assert two.text.resident - one.text.resident == len(b"weights")


def test_what_is_no_export_is_told(tmp_path):
    with pytest.raises(SkdError, match="no variant"):
        read_workload(tmp_path / "none")
    with pytest.raises(ManifestError):
        read_workload(tmp_path)
    folder = make_export(tmp_path / "export")
    config = json.loads((folder / "config.json").read_text())
    for part, key in (("text_config", "hidden_size"), ("vision_config", "patch_size")):
        broken = {**config, part: {**config[part], key: "wide"}}
        (folder / "config.json").write_text(json.dumps(broken))
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["files"]["config.json"]["bytes"] = (folder / "config.json").stat().st_size
        (folder / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(SkdError, match=key):
            read_workload(folder)
    files = {"language.bin": ("language", 10), "vision.onnx": ("vision", 20)}
    with pytest.raises(SkdError, match=r"language\.bin"):
        read_workload(make_export(tmp_path / "bin", files=files))


def test_the_int8_graph_is_the_one_that_the_onnx_package_reads():
    onnx = pytest.importorskip("onnx")
    weights = np.random.default_rng(0).integers(-LARGEST_WEIGHT, LARGEST_WEIGHT + 1, (8, 5), np.int8)
    model = onnx.load_model_from_string(int8_product(weights.tobytes(), 8, 5))
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == [
        *("DynamicQuantizeLinear", "MatMulInteger", "Cast", "Mul", "Mul"),
    ]


@pytest.mark.parametrize("rows", [1, 7])
@pytest.mark.parametrize("least", [-LARGEST_WEIGHT, LARGEST_WEIGHT])
def test_no_processor_cuts_the_int8_graphs_sums(rows, least):
    """Also of the largest weights and bytes alone: every sum is that of whole numbers, whatever kernels the processor has."""
    onnxruntime = pytest.importorskip("onnxruntime")
    random = np.random.default_rng(0)
    weights = random.integers(least, LARGEST_WEIGHT + 1, (64, 48), np.int8)
    session = onnxruntime.InferenceSession(int8_product(weights.tobytes(), 64, 48), providers=["CPUExecutionProvider"])
    activations = random.choice([0, 128, 255], (rows, 64), p=[0.1, 0.1, 0.8])
    activations[:, 0] = 255  # so that a byte stands for 1/255
    (y,) = session.run(None, {"x": (activations / 255).astype(np.float32)})
    expected = activations @ weights.astype(np.int64) * 0.01 / 255
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_larger_weights_would_be_cut_somewhere():
    """The bound is the largest one: two products of the next whole number don't fit into 16 bits."""
    assert 2 * 255 * LARGEST_WEIGHT < 2**15 <= 2 * 255 * (LARGEST_WEIGHT + 1)


def test_this_computer_is_measured_once_and_again_when_asked(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    profile = probe.probe_local(threads=1, seconds=0.05)
    assert set(profile.figures) | set(profile.unknown) == set(FIELDS)
    fields = ("memory_read_gbps", "matrix_f32_gmacs", "matrix_int8_gmacs", "vector_int8_gmacs")
    assert all(profile.value(field) > 0.01 for field in fields)
    assert "1 threads" in profile.figures["memory_read_gbps"].source
    found = probe.find_profile("local")
    assert {name: figure for name, figure in found.figures.items() if name != "system_gb"} == {
        name: figure for name, figure in profile.figures.items() if name != "system_gb"
    }
    written = probe.cache_file().stat().st_mtime_ns
    probe.probe_local(threads=1, seconds=0.01)
    assert probe.cache_file().stat().st_mtime_ns > written


def test_a_rate_counts_the_rows_at_once(monkeypatch):
    """By a clock that says one second for everything: how long it really takes depends on what else the computer does."""
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(measure, "_fastest", lambda work, seconds: 1.0 if work() else 0.0)
    vector, matrix = measure.int8_rates(1, 0.0)
    assert vector * 1e9 == measure._DEPTH * measure._WIDTH and matrix == measure._ROWS * vector


def test_without_onnx_runtime_its_rates_are_left_out(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    found = measure.measure(1, 0.01)
    assert set(found["unknown"]) == {"matrix_int8_gmacs", "vector_int8_gmacs"}
    assert "switchkd[onnx]" in found["unknown"]["matrix_int8_gmacs"]
    assert set(found) == {"memory_read_gbps", "matrix_f32_gmacs", "unknown"}


def test_a_failed_measurement_is_one_line(monkeypatch):
    monkeypatch.setattr(probe.sys, "executable", "/bin/false")
    with pytest.raises(SkdError, match=r"failed: exit status 1\.$"):
        probe.probe_local(keep=False)


def test_an_unknown_target_is_one_line():
    with pytest.raises(SkdError, match="no target 'toaster'"):
        probe.find_profile("toaster")


def test_workloads_of_other_sizes_differ(tmp_path):
    work = read_workload(make_export(tmp_path / "export"))
    assert replace(work, cache_bytes=4).decode(10).bytes - work.decode(10).bytes == 10 * 24 * 2 * 2 * 64 * 2
