"""Shipping through the real command line: key, package, check, install, next release, downgrade, rollback."""

import json
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from support import packages
from support.llava_models import picture, question
from support.shipping import NAME, names, read, ship, skd

from switchkd.errors import SkdError
from switchkd.export.shipping.writer import Content, write_package
from switchkd.files import file_sha256
from switchkd.manifest import FILE_NAME
from switchkd.runtime.engines.opening import open_engine
from switchkd.runtime.packages.format import Targets
from switchkd.runtime.packages.install import Installation
from switchkd.runtime.packages.question import KnownQuestion
from switchkd.runtime.packages.reader import verify_folder
from switchkd.runtime.packages.signature import load_public_key

SKD = Path(sys.executable).with_name("skd")


def test_from_export_to_device_and_back(run):
    first = ship()
    assert first == Path(f"runs/latest/packages/{NAME}-jetson-orin-nano-1.tar")
    assert f"{NAME}-jetson-orin-nano-1.tar" in (run / "reports" / "index.html").read_text()
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
    asked = read(package, "question.json")
    with open_engine(run / "exports" / NAME, threads=1) as engine:
        assert asked["tokens"] == KnownQuestion.asked(engine).tokens
    assert "question.json" not in names(ship("--no-question", "--out", "q.tar"))
    assert "wasn't asked" in skd("install", "q.tar", "without", "--key", "key.pub")


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


@pytest.mark.parametrize("format", ["openvino", pytest.param("", marks=pytest.mark.slow)])
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
    targets = Targets("tiny", "board", 1, {"run": contents["run"].entry})
    with pytest.raises(SkdError, match="was made by somebody else meanwhile"):
        write_package(out, targets, contents, signer, replace=False)
    assert out.read_bytes() == before and {path.name for path in tmp_path.iterdir()} == {"a.tar", "key", "key.pub"}
    write_package(out, targets, contents, signer)
    assert out.read_bytes() != before
    write_package(tmp_path / "b.tar", targets, contents, signer, replace=False)
    assert (tmp_path / "b.tar").read_bytes() == out.read_bytes() and (tmp_path / "b.tar").stat().st_nlink == 1
