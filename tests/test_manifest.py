"""The manifest reads back what it wrote and refuses what it can't trust."""

import json
import os
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from switchkd.files import file_sha256
from switchkd.manifest import FILE_NAME, SCHEMA, FileEntry, ImageTokens, Manifest, ManifestError, Origin, TensorCount


def make(files: dict[str, FileEntry] | None = None) -> Manifest:
    return Manifest(
        format="gguf",
        quant="q4_0",
        vision_quant="f16",
        source=Origin("student", "ab" * 32),
        tools={"gguf": "0.19.0"},
        files=files or {},
        image=ImageTokens(16, "<|image_pad|>", 7),
        prompt_template="{{ messages }}",
        end_tokens=[1, 2],
        context=2048,
        parity={"loss": {"kl_mean": 0.01}},
    )


@pytest.fixture
def folder(tmp_path):
    weights = tmp_path / "language.gguf"
    weights.write_bytes(bytes(range(256)))
    entry = FileEntry("language", 256, file_sha256(weights), {"Q4_0": TensorCount(3, 200)})
    make({"language.gguf": entry}).save(tmp_path)
    return tmp_path


def change(folder: Path, **values) -> None:
    path = folder / FILE_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_reads_back_what_it_wrote(folder):
    manifest = Manifest.load(folder)
    assert manifest == make(manifest.files)
    assert manifest.file_of("language") == "language.gguf"
    assert manifest.files["language.gguf"].tensor_types["Q4_0"].bytes == 200
    assert manifest.pictures is None
    for pictures in (0, 1, 6, None):
        change(folder, pictures=pictures)
        assert Manifest.load(folder).pictures == pictures
    for wrong in ("2", True, 1.5):
        change(folder, pictures=wrong)
        with pytest.raises(ManifestError, match="torn: TypeError pictures"):
            Manifest.load(folder)


text = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=20)


@given(text, st.dictionaries(text, text), st.lists(st.integers(0, 10**9)), text)
def test_any_text_survives(template, tools, end_tokens, token):
    manifest = replace(
        make(), prompt_template=template, tools=tools, end_tokens=end_tokens, image=ImageTokens(1, token, 0)
    )
    with tempfile.TemporaryDirectory() as folder:
        manifest.save(Path(folder))
        assert Manifest.load(Path(folder)) == manifest


@pytest.mark.parametrize(
    "weights",
    [
        {"language.gguf": "language", "mmproj.gguf": "vision"},
        {"onnx/decoder.onnx": "language", "onnx/decoder.onnx_data": "", "onnx/tower.onnx": "vision"},
        {"openvino.xml": "language"},
    ],
)
def test_weights_are_counted_in_every_format(weights):
    beside = {"tokenizer.json": "", "config.json": ""}
    files = {name: FileEntry(role, 10, "0") for name, role in {**weights, **beside}.items()}
    assert make(files).weights == 10 * len(weights)


@pytest.mark.parametrize("position", [0, 100, 255])
def test_a_flipped_bit_is_caught_by_the_hash_alone(folder, position):
    path = folder / "language.gguf"
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)
    with pytest.raises(ManifestError, match=r"language\.gguf isn't the file that was exported"):
        Manifest.load(folder)
    Manifest.load(folder, verify=False)


def test_a_missing_and_a_cut_file(folder):
    path = folder / "language.gguf"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ManifestError, match="255 bytes instead of 256"):
        Manifest.load(folder, verify=False)
    path.unlink()
    with pytest.raises(ManifestError, match="is missing"):
        Manifest.load(folder, verify=False)


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "a/../../secret", "..", "", "a\\..\\b", "x\0y"])
def test_paths_stay_inside(folder, name):
    change(folder, files={name: {"role": "", "bytes": 1, "sha256": ""}})
    with pytest.raises(ManifestError, match="outside its folder"):
        Manifest.load(folder, verify=False)


def test_links_stay_inside(folder, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "language.gguf"
    (folder / "language.gguf").rename(outside)
    (folder / "language.gguf").symlink_to(outside)
    with pytest.raises(ManifestError, match="leads out of its folder"):
        Manifest.load(folder)


def in_cache(folder: Path, cache: Path, subfolder: str, *, links_to: str = "blobs") -> Path:
    """The export as the hub's cache keeps a download: files by their hashes, and links to them."""
    snapshot = cache / "models--owner--student" / "snapshots" / ("0a" * 20) / subfolder
    blobs = cache / "models--owner--student" / links_to
    for place in (snapshot, blobs):
        place.mkdir(parents=True)
    for path in folder.glob("*"):
        blob = blobs / file_sha256(path)
        blob.write_bytes(path.read_bytes())
        (snapshot / path.name).symlink_to(os.path.relpath(blob, snapshot))
    return snapshot


@pytest.mark.parametrize("subfolder", ["", "student-gguf-q4", "exports/q4"])
def test_a_snapshot_in_the_hubs_cache_is_read(folder, tmp_path_factory, subfolder):
    snapshot = in_cache(folder, tmp_path_factory.mktemp("hub"), subfolder)
    assert Manifest.load(snapshot) == Manifest.load(folder)
    weights = (snapshot / "language.gguf").resolve()
    weights.write_bytes(bytes(256))
    with pytest.raises(ManifestError, match="SHA-256"):
        Manifest.load(snapshot)


@pytest.mark.parametrize("links_to", ["other", "blobs2", "snapshots/secret"])
def test_a_snapshots_links_lead_to_its_blobs_alone(folder, tmp_path_factory, links_to):
    with pytest.raises(ManifestError, match="leads out of its folder"):
        Manifest.load(in_cache(folder, tmp_path_factory.mktemp("hub"), "", links_to=links_to))


def test_newer_schema(folder):
    change(folder, schema=SCHEMA + 1)
    with pytest.raises(ManifestError, match="update skd"):
        Manifest.load(folder)


@pytest.mark.parametrize(
    "values",
    [
        {"schema": None},
        {"schema": True},
        {"files": []},
        {"files": {"a": {"role": "", "bytes": "1", "sha256": ""}}},
        {"image": {"tokens": 1, "token": "x"}},
        {"context": "many"},
        {"parity": None},
    ],
)
def test_torn_manifests(folder, values):
    change(folder, **values)
    with pytest.raises(ManifestError) as error:
        Manifest.load(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["", "[]", "{", "null", '"x"', "[" * 5000])
def test_no_json_object(folder, content):
    (folder / FILE_NAME).write_text(content)
    with pytest.raises(ManifestError):
        Manifest.load(folder)


def test_no_manifest(tmp_path):
    with pytest.raises(ManifestError, match="is no export"):
        Manifest.load(tmp_path)


def test_roles_are_unique(folder):
    manifest = Manifest.load(folder)
    with pytest.raises(ManifestError, match="0 files with the role 'vision'"):
        manifest.file_of("vision")
