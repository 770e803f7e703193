"""`skd hardware` on a real small export: every option is seen in the result."""

from __future__ import annotations

import json
import shutil
from importlib import resources

import pytest
from click.testing import CliRunner

from switchkd.cli.main import main
from switchkd.hardware.profile import profile_names, shipped_profile
from switchkd.manifest import Manifest

TARGETS = ("--target", "rk3588", "--target", "tda4vm", "--target", "journey-6")


@pytest.fixture(scope="module")
def variant(tmp_path_factory, shelf):
    return shutil.copytree(shelf.export("gguf", "q8"), tmp_path_factory.mktemp("fit") / "student-q8")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_COLOR", "1")


def run(*words, status=0) -> str:
    result = CliRunner().invoke(main, ["hardware", *map(str, words)])
    assert result.exit_code == status, result.output
    return result.output


def fits(tmp_path, variant, *words) -> dict[str, dict]:
    run("fit", variant, *TARGETS, "--context", 200, *words, "--json", tmp_path / "fit.json")
    value = json.loads((tmp_path / "fit.json").read_text())
    assert value["kind"] == "predicted"
    return {each["target"]: each for each in value["fits"]}


def test_list_names_every_target():
    output = run("list")
    for name in profile_names():
        assert name in output
    assert "skd hardware probe" in output  # this computer hasn't been measured


def test_show_tells_every_figure_its_source_and_every_gap():
    output = " ".join(run("show", "raspberry-pi-5").split())
    profile = shipped_profile("raspberry-pi-5")
    for name, figure in profile.figures.items():
        assert name in output and figure.confidence in output
    for name in profile.unknown:
        assert name in output
    assert "26484" in output and "17.1 GB/s" in output


def test_probe_measures_and_fit_takes_it(tmp_path, variant):
    output = run("probe", "--threads", 1)
    assert "memory_read_gbps" in output and "kept in" in output
    (path,) = (tmp_path / "cache").rglob("local-*.json")
    kept = json.loads(path.read_text())
    table = run("fit", variant, "--target", "local", "--context", 200)
    assert "Predicted: student-q8 on the cpu" in table
    kept["memory_read_gbps"]["value"] = 1e-3  # a computer that hardly reads
    path.write_text(json.dumps(kept))
    slow = run("fit", variant, "--target", "local", "--context", 200, "--rate", 1000)
    assert slow != table and "holds 1000 Hz" in slow and " no " in slow


def test_fit_takes_the_bytes_of_the_files(tmp_path, variant):
    manifest = Manifest.load(variant)
    weights = sum(entry.bytes for entry in manifest.files.values() if entry.role)
    found = fits(tmp_path, variant)
    assert list(found) == ["rk3588", "tda4vm", "journey-6"]
    for each in found.values():
        assert each["predicted"]["memory_bytes"]["weights"] == weights
        assert each["precision"] == {"language": "gguf q8_0", "vision": "gguf f16"}
        assert each["asked"]["prompt_tokens"] == manifest.image.tokens + 32
    assert found["tda4vm"]["predicted"]["fits"] == "yes" and found["rk3588"]["predicted"]["fits"] == "unknown"
    assert found["journey-6"]["predicted"]["decode_tokens_per_second"] is None and found["journey-6"]["missing"]


@pytest.mark.parametrize(
    ("words", "path"),
    [
        (("--context", 400), ("predicted", "memory_bytes", "cache")),
        (("--text", 64), ("predicted", "prefill_seconds", "value")),
        (("--answer", 40), ("predicted", "picture_seconds", "value")),
        (("--rate", 1.5), ("predicted", "holds_camera_rate")),
        (("--ram", 16), ("available_bytes",)),
        (("--processor", "accelerator"), ("predicted", "encode_seconds", "value")),
    ],
)
def test_every_option_is_seen_in_the_result(tmp_path, variant, words, path):
    def value(found):
        for key in path:
            found = found[key]
        return found

    target = "rk3588" if "--ram" in words else "tda4vm"  # whose profile knows its memory
    assert value(fits(tmp_path, variant)[target]) != value(fits(tmp_path, variant, *words)[target])


def test_tables_say_that_they_predict(variant):
    output = run("fit", variant, *TARGETS, "--context", 200)
    assert output.lstrip().startswith("Predicted: student-q8")
    assert "prefer" in output and "missing" in output and "account" in output
    both = run("fit", variant, variant, "--target", "rk3588", "--context", 200)
    assert both.count("Predicted:") == both.count("\nprefer ") == 2  # and the reasons of each
    assert "context 2048" in run("fit", variant, "--target", "rk3588")


def test_what_cant_be_told_doesnt_lose_the_rest(tmp_path, variant):
    targets = ("--target", "toaster", "--target", "rk3588")
    output = run("fit", "no-variant", variant, *targets, "--context", 200, "--json", tmp_path / "fit.json", status=1)
    *_, first, second = output.splitlines()
    assert output.lstrip().startswith("Predicted: student-q8")
    assert first.startswith("Error: There is no variant no-variant") and "no target 'toaster'" in second
    assert [each["target"] for each in json.loads((tmp_path / "fit.json").read_text())["fits"]] == ["rk3588"]


def test_a_target_on_which_nothing_fits(tmp_path, variant):
    profile = tmp_path / "tiny.toml"
    text = (resources.files("switchkd.hardware") / "profiles" / "tda4vm.toml").read_text()
    profile.write_text(text.replace("value = 4.0", "value = 1.01"))
    output = " ".join(run("fit", variant, "--target", profile, "--context", 200).split())
    assert "none fits" in output and "prefer nothing: nothing fits: even llama.cpp, q4_0, vision q4_0 needs" in output


@pytest.mark.parametrize("option", ["--rate", "--ram"])
@pytest.mark.parametrize("number", ["inf", "nan", "0"])
def test_numbers_are_positive_and_finite(variant, option, number):
    assert f"Invalid value for '{option}'" in run("fit", variant, option, number, status=2)


@pytest.mark.parametrize(
    ("words", "word"),
    [
        (("fit", "no-variant", "--target", "rk3588"), "no-variant"),
        (("fit", "VARIANT", "--target", "toaster"), "toaster"),
        (("fit", "VARIANT", "--target", "rk3588", "--context", "20"), "context of 20"),
        (("fit", "VARIANT", "--target", "rk3588", "--context", "999999"), "trained"),
        (("show", "toaster"), "toaster"),
        (("show", "missing.toml"), "missing.toml"),
    ],
)
def test_mistakes_end_as_one_line(variant, words, word):
    output = run(*(str(variant) if each == "VARIANT" else each for each in words), status=1)
    assert output.startswith("Error: ") and len(output.splitlines()) == 1 and word in output
