"""Shipping through the real command line: key, package, check, install, next release, downgrade, rollback."""

import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from support import packages
from support.llava_models import make_checkpoint, picture, question

from switchkd.cli.main import main
from switchkd.errors import SkdError
from switchkd.export.folder import ExportRequest, run_export
from switchkd.export.shipping.bill_of_materials import _without_place, bill_of_materials
from switchkd.export.shipping.provenance import Provenance, provenance
from switchkd.export.shipping.writer import Content, write_package
from switchkd.files import file_sha256, folder_sha256
from switchkd.manifest import FILE_NAME, Manifest
from switchkd.runtime.engines.opening import open_engine
from switchkd.runtime.packages.format import Targets
from switchkd.runtime.packages.install import Installation
from switchkd.runtime.packages.reader import verify_folder
from switchkd.runtime.packages.signature import load_public_key

NAME = "student-onnx-fp32"
SKD = Path(sys.executable).with_name("skd")
RECIPE = {
    "name": "mine",
    "data": {"source": "files", "folder": "data", "sets": {
        name: {"file": f"{name}.json"} for name in ("talks", "captions", "text", "unused")
    }},
    "stages": {
        "pt": {"data": "captions", "distill": False}, "dft": {"data": "talks", "distill": True},
        "words": {"data": "text", "distill": False}, "other": {"data": "unused", "distill": False},
    },
    "parts": {"small": {"kind": "language", "language": "", "stages": ["words"]}},
    "student": {"checkpoint": "", "vision": "google/siglip", "language": "part:small", "stages": ["pt", "dft"], "baseline": ["pt"]},
    "teacher": {"checkpoint": "models/teacher-7b", "vision": "", "language": "", "stages": ["other"]},
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run with an export, a recipe and data."""
    run = tmp_path_factory.mktemp("ship") / "runs" / "first"
    make_checkpoint(run / "student", seed=3)
    run_export(ExportRequest(run / "student", run / "exports" / NAME, format="onnx", quant="fp32", threads=1))
    (run / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    return run


@pytest.fixture
def run(finished, tmp_path, monkeypatch):
    """A copy of it in a working folder, and a key."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    copy = Path(shutil.copytree(finished, tmp_path / "runs" / "first"))
    (tmp_path / "runs" / "latest").symlink_to("first")
    (tmp_path / "data").mkdir()
    for name in ("talks", "captions", "unused"):
        (tmp_path / "data" / f"{name}.json").write_text(f"[{name!r}]")
    skd("key", "key")
    return copy


def skd(*arguments: object, status: int = 0) -> str:
    """What the command prints; with a status, the one line of its error."""
    result = CliRunner().invoke(main, [str(each) for each in arguments])
    assert result.exit_code == status, result.output
    if status == 1:
        assert result.output.startswith("Error: ") and result.output.count("\n") == 1
    return result.output


def ship(*options: object, release: int = 1, status: int = 0) -> Path:
    """The package that `skd ship` makes of the export for the smallest Jetson."""
    shown = skd(
        "ship", NAME, "--target", "jetson-orin-nano", "--key", "key", "--release", release, *options, status=status
    )
    return Path(shown.splitlines()[0])


def read(package: Path, name: str) -> dict:
    with tarfile.open(package) as archive:
        return json.load(archive.extractfile(name))


def names(package: Path) -> list[str]:
    with tarfile.open(package) as archive:
        return archive.getnames()


def test_from_export_to_device_and_back(run):
    first = ship()
    assert first == Path(f"runs/latest/packages/{NAME}-jetson-orin-nano-1.tar")
    assert "right" in skd("verify", first, "--key", "key.pub", "--target", "jetson-orin-nano")
    assert "release 1" in skd("install", first, "device", "--key", "key.pub")
    picture().save("scene.png")
    with open_engine(run / "exports" / NAME, threads=1) as engine:
        expected = engine.answer(question("is it red ?"), picture(), max_new_tokens=9)
    command = [
        "device/current/run",
        "--image",
        "scene.png",
        "--prompt",
        "is it red ?",
        "--threads",
        "1",
        "--max-tokens",
        "9",
    ]
    environment = {**os.environ, "SKD": str(SKD)}
    answer = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert answer.stdout.strip() == expected, answer.stderr

    second = ship(release=2)
    skd("verify", second, "--key", "key.pub", "--installed", "device")
    assert "in use instead of release 1" in skd("install", second, "device", "--key", "key.pub")
    assert "older than release 2" in skd("verify", first, "--key", "key.pub", "--installed", "device", status=1)
    assert "older than release 2" in skd("install", first, "device", "--key", "key.pub", status=1)
    assert "release 2" in skd("verify", "device/current", "--key", "key.pub")
    target = ("--target", "sa8155p")
    assert "not for sa8155p" in skd("install", "--rollback", "device", "--key", "key.pub", *target, status=1)
    Path("device/current/run").chmod(0o600)
    assert "run has the permissions 600" in skd("verify", "device/current", "--key", "key.pub", status=1)
    assert "was damaged, and is whole again" in skd("install", second, "device", "--key", "key.pub")
    assert "was installed already, and is whole" in skd("install", second, "device", "--key", "key.pub")
    assert "back from release 2" in skd("install", "--rollback", "device", "--key", "key.pub")
    assert "release 1" in skd("verify", "device/current", "--key", "key.pub")
    assert packages.tree(Path("device/current/variant").resolve()) == packages.tree(run / "exports" / NAME)


def test_what_is_refused(run):
    package = ship()
    skd("key", "other")
    for options in (("--key", "other.pub"), ("--key", "key.pub", "--target", "sa8155p")):
        skd("verify", package, *options, status=1)
        skd("install", package, "device", *options, status=1)
    skd("verify", package, "--key", "other.pub", "--key", "key.pub")
    assert "nothing can't be read" in skd("verify", package, "--key", "nothing", status=1)
    assert "no installed release" in skd("verify", package, "--key", "key.pub", "--installed", "nowhere", status=1)
    assert "already there" in skd("key", "key", status=1)
    for arguments in ((package,), (package, "device", "more"), ("--rollback", package, "device")):
        skd("install", *arguments, "--key", "key.pub", status=2)
    assert "--force" in str(ship_error())
    assert ship("--force") == package
    assert "no target 'toaster'" in skd("ship", NAME, "--target", "toaster", "--key", "key", status=1)
    assert "no variant" in skd("ship", "nobody", "--target", "sa8155p", "--key", "key", status=1)
    (run / "exports" / NAME / "tokenizer.json").write_text("{}")
    assert "tokenizer.json" in skd("ship", NAME, "--target", "sa8155p", "--key", "key", status=1)
    assert {path.name for path in (run / "packages").iterdir()} == {package.name}


def ship_error() -> str:
    return skd("ship", NAME, "--target", "jetson-orin-nano", "--key", "key", status=1)


def test_the_same_inputs_give_the_same_bytes(run):
    """Also in another process, where sets and hashes have another order."""
    package = ship()
    for seed in ("1", "2"):
        command = [SKD, "ship", NAME, "--target", "jetson-orin-nano", "--key", "key", "--out", f"{seed}.tar"]
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, "PYTHONHASHSEED": seed})
        assert Path(f"{seed}.tar").read_bytes() == package.read_bytes()
    assert ship("--out", "3.tar", release=2).read_bytes() != package.read_bytes()


def test_an_encrypted_key(run, monkeypatch):
    monkeypatch.setenv("SKD_PASSPHRASE", "horse")
    skd("key", "secret", "--encrypt")
    skd("ship", NAME, "--target", "sa8155p", "--key", "secret", "--out", "p.tar")
    skd("verify", "p.tar", "--key", "secret.pub")
    monkeypatch.setenv("SKD_PASSPHRASE", "donkey")
    skd("ship", NAME, "--target", "sa8155p", "--key", "secret", "--out", "q.tar", status=1)


def test_evidence(run):
    package = ship()
    assert read(package, "target.json")["name"] == "jetson-orin-nano"
    fit = read(package, "fit.json")
    assert fit["variant"] == NAME and fit["predicted"]["fits"] == "yes"
    assert "bench.json" not in names(package)
    assert "none: there is no bench" in skd("ship", NAME, "--target", "sa8155p", "--key", "key", "--out", "n.tar")


def test_measurements_belong_to_this_very_variant(run):
    digest = file_sha256(run / "exports" / NAME / FILE_NAME)
    bench = {"schema": 1, "machine": {"cpu": "x"}, "settings": {
        "seed": 0, "data": "/home/a/test.json", "unreadable": [{"id": "7", "error": "no /home/a/7.png"}]}, "variants": {
        NAME: {"files": {"manifest_sha256": digest}, "latency": 1, "folder": "/home/a/x"}, "another": {}}}  # fmt: skip
    automatic = run / "reports" / "bench" / "bench.json"
    automatic.parent.mkdir(parents=True)
    automatic.write_text(json.dumps(bench))
    # Of this variant alone, and no places of the computer that measured.
    entry = bench["variants"][NAME] | {"folder": NAME}
    settings = {"seed": 0, "data": "test.json", "unreadable": ["7"]}
    assert read(ship(), "bench.json") == {**bench, "settings": settings, "variants": {NAME: entry}}
    bench["variants"][NAME]["files"]["manifest_sha256"] = "0" * 64
    automatic.write_text(json.dumps(bench))
    assert "bench.json" not in names(ship("--out", "old.tar"))
    Path("bench.json").write_text(json.dumps(bench))
    assert "its manifest differs" in bench_error()
    for content in (
        "",
        "[]",
        '{"schema": 2}',
        '{"schema": 1, "variants": {}}',
        json.dumps({"schema": 1, "variants": {NAME: 3}}),
    ):
        Path("bench.json").write_text(content)
        bench_error()


def bench_error() -> str:
    return skd("ship", NAME, "--target", "sa8155p", "--key", "key", "--out", "b.tar", "--bench", "bench.json", status=1)


def test_bill_of_materials(run):
    bill = read(ship("--license", "Apache-2.0", "--license", "data:talks=CC-BY-4.0"), "bom.cdx.json")
    manifest = Manifest.load(run / "exports" / NAME)
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6") and "timestamp" not in bill["metadata"]
    model = bill["metadata"]["component"]
    assert (model["type"], model["name"], model["version"]) == ("machine-learning-model", NAME, "1")
    assert model["licenses"] == [{"license": {"id": "Apache-2.0"}}]
    (source,) = model["pedigree"]["ancestors"]
    assert source["hashes"][0]["content"] == folder_sha256(run / "student")
    parts = {each["bom-ref"]: each for each in bill["components"]}
    assert {ref: each["hashes"][0]["content"] for ref, each in parts.items() if ref.startswith("file:")} == {
        f"file:{name}": entry.sha256 for name, entry in manifest.files.items()
    }
    assert {ref for ref in parts if ref.startswith("data:")} == {"data:talks", "data:captions", "data:text"}
    assert parts["data:talks"]["hashes"][0]["content"] == file_sha256(Path("data/talks.json"))
    assert parts["data:talks"]["licenses"] == [{"license": {"id": "CC-BY-4.0"}}]
    notes = {each["name"]: each["value"] for each in parts["data:text"]["properties"]}
    assert notes["switchkd:sha256"] == "the file is gone" and notes["switchkd:licence"] == "not stated"
    assert {ref for ref in parts if ref.startswith("checkpoint:")} == {
        "checkpoint:google/siglip",
        "checkpoint:models/teacher-7b",
    }
    libraries = {each["name"]: each for each in parts.values() if each["type"] == "library"}
    assert {"switchkd", "onnxruntime", "numpy", "tokenizers"} <= set(libraries) and "torch" not in libraries
    assert all(each["scope"] == "required" and each["version"] for each in libraries.values())
    assert {
        each["ref"] for each in bill["dependencies"] if each["ref"] == "model" and set(each["dependsOn"]) == set(parts)
    }
    shown = skd(
        "ship", NAME, "--target", "sa8155p", "--key", "key", "--license", "data:tolks=MIT", "--out", "x.tar", status=1
    )
    assert "data:tolks" in shown and "data:talks" in shown


def test_a_bill_without_what_runs_the_variant_is_refused(run):
    manifest = replace(Manifest.load(run / "exports" / NAME), format="openvino")
    with pytest.raises(SkdError, match=r"what runs the format 'openvino'.*known are gguf, onnx, hybrid"):
        bill_of_materials(NAME, 1, manifest, "0" * 64, Provenance(), {})


def test_origin_is_told_only_where_it_is_sure(run):
    variant = run / "exports" / NAME
    source = Manifest.load(variant).source
    found = provenance(variant, source)
    assert (found.recipe, found.role) == ("mine", "student")
    assert [each.name for each in found.data] == ["captions", "talks", "text"]
    (run / "student").rename(run / "baseline")
    found = provenance(variant, source)
    assert found.role == "baseline" and [each.name for each in found.data] == ["captions", "text"]
    assert found.checkpoints == ["google/siglip"]
    (run / "recipe.yaml").write_text("name: [")
    assert provenance(variant, source) == provenance(Path("elsewhere/exports/x"), source)
    (run / "recipe.yaml").write_text("name: x")
    assert provenance(variant, source).recipe is None


def test_a_shipped_recipe_is_understood(run):
    """With the real recipe's own form: every set that student and teacher learn from, no other."""
    from switchkd.recipes.reader import load_recipe
    from switchkd.recipes.settings import to_plain

    (run / "recipe.yaml").write_text(yaml.safe_dump(to_plain(load_recipe("roadscenes", ()))))
    found = provenance(run / "exports" / NAME, Manifest.load(run / "exports" / NAME).source)
    assert found.recipe == "roadscenes" and "finetune" in {each.name for each in found.data}


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_killed_at_a_hundred_random_moments(run):
    """A real variant, asked after every kill."""
    old, new = ship(release=1), ship(release=2)
    skd("install", old, "device", "--key", "key.pub")
    with open_engine(run / "exports" / NAME, threads=1) as engine:
        expected = engine.answer(question(), picture(), max_new_tokens=9)
    kill_installs(new, Path("device"), Path("key.pub"), expected, 100)


def kill_installs(package: Path, device: Path, key: Path, expected: str, times: int) -> None:
    """Installs release 2 over 1 in copies of `device` until so many were killed; prints in which state that left them."""
    public = load_public_key(key)
    rng, counts = random.Random(0), Counter()
    with packages.Installer(package, key) as installer:
        seconds = installer.seconds(device, Path("whole"))
        while sum(counts.values()) < times:
            copy = Path(shutil.copytree(device, "copy", symlinks=True))
            killed = installer.install(copy, killed_after=rng.uniform(0, seconds)) != 0
            release = verify_folder(copy / "current", [public]).targets.release
            with open_engine(copy / "current" / "variant", threads=1) as engine:
                assert engine.answer(question(), picture(), max_new_tokens=9) == expected
            partial = any(copy.rglob(".partial-*"))
            if killed:
                counts[f"release {release}, {'with' if partial else 'without'} leftovers"] += 1
            assert Installation(copy).install(package, [public]).targets.release == 2
            assert not any(copy.rglob(".partial-*"))
            shutil.rmtree(copy)
    print(f"\n{times} kills within {seconds:.3f} s: {dict(sorted(counts.items()))}")


@pytest.mark.parametrize(
    ("given", "shown"),
    [("/home/a/teacher-7b", "teacher-7b"), ("../b/student", "student"), ("Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-0.5B")],
)
def test_the_bill_names_no_places(given, shown):
    assert _without_place(given) == shown


@pytest.mark.parametrize("format", ["openvino", "mlx", ""])
def test_formats_of_other_versions_are_refused_everywhere(run, format):
    """Nothing is predicted or packed of what can't be run."""
    path = run / "exports" / NAME / FILE_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": format}))
    for command in (
        ("chat", NAME, "--prompt", "hello"),
        ("hardware", "fit", NAME),
        ("ship", NAME, "--target", "sa8155p", "--key", "key"),
    ):
        assert f"'{format}'" in skd(*command, status=1), command
    assert not (run / "packages").exists()


def test_a_package_that_somebody_else_made_meanwhile_is_left(tmp_path):
    """Two that pack into one file: neither was there when both began."""
    signer, _ = packages.key_pair(tmp_path)
    out = packages.write(tmp_path / "a.tar", signer, packages.files())
    before = out.read_bytes()
    contents = {"run": Content.of_bytes(b"other")}
    targets = Targets("tiny", "board", 1, {"run": contents["run"].target})
    with pytest.raises(SkdError, match="was made by somebody else meanwhile"):
        write_package(out, targets, contents, signer, replace=False)
    assert out.read_bytes() == before and {path.name for path in tmp_path.iterdir()} == {"a.tar", "key", "key.pub"}
    write_package(out, targets, contents, signer)
    assert out.read_bytes() != before
    write_package(tmp_path / "b.tar", targets, contents, signer, replace=False)
    assert (tmp_path / "b.tar").read_bytes() == out.read_bytes() and (tmp_path / "b.tar").stat().st_nlink == 1
