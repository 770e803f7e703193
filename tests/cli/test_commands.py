"""The real commands, in this process: what they make, what they print, what they refuse."""

import json
import os
import re
import tomllib
from pathlib import Path

import click
import pytest
import torch
import yaml
from click.testing import CliRunner
from PIL import Image
from support.llava_models import make_model

from switchkd import processor
from switchkd.cli import doctor
from switchkd.cli.main import main
from switchkd.models.vlm import load_vlm
from switchkd.runtime.engines.llama import build as llama_build


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def skd(*arguments: object, fails: bool = False) -> str:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert (result.exit_code != 0) == fails, (result.output, result.exception)
    if fails:
        assert isinstance(result.exception, SystemExit), result.exception
        assert "Traceback" not in result.output
        assert len(result.output.strip().splitlines()[-1]) > 20
    return result.output


def init(folder: str, language: str, **options) -> Path:
    shape = ("--random", "--shrink", "--vision", "siglip-so400m-patch14-384", "--language", language)
    skd("init", folder, *shape, "--feature-layer", -2)
    return Path(folder)


def real_records(images: Path) -> list[dict]:
    """Records as LLaVA's own mixture has them: several turns, text only, a missing picture, a torn file."""
    images.mkdir()
    Image.effect_noise((90, 60), 80).convert("RGB").save(images / "a.jpg")
    Image.effect_noise((60, 90), 80).save(images / "b.png")
    torn = (images / "a.jpg").read_bytes()
    (images / "torn.jpg").write_bytes(torn[: len(torn) // 2])

    def turns(*texts: str) -> list[dict]:
        return [{"from": ("human", "gpt")[n % 2], "value": text} for n, text in enumerate(texts)]

    good = [
        {
            "id": "a1",
            "image": "a.jpg",
            "conversations": turns("<image>\nIs there a car?", "Yes.", "Where?", "On the left."),
        },
        {"id": "b1", "image": "b.png", "conversations": turns("What is it?\n<image>", "Noise — “grey”.")},
        {"id": "t1", "conversations": turns("What is 2 + 2?", "4")},
    ]
    bad = [
        {"id": "m1", "image": "gone.jpg", "conversations": turns("<image>\nWhat?", "Gone.")},
        {"id": "x1", "image": "torn.jpg", "conversations": turns("<image>\nWhat?", "Torn.")},
        {"id": "n1", "conversations": turns("Nobody answers.")},
    ]
    return good * 4 + bad


@pytest.fixture
def paper_run(tmp_path):
    """`skd init --random` parts of the tinyllava recipes' shrunken shapes, and data of the real format."""
    init("student", "qwen2.5-0.5b")
    init("student-1.5b", "qwen2.5-1.5b")
    init("teacher", "qwen2.5-7b")
    records = real_records(tmp_path / "pictures")
    (tmp_path / "train.json").write_text(json.dumps(records))
    settings = {
        "data.folder": tmp_path,
        "data.sets.pretrain": "{file: train.json, images: pictures}",
        "data.sets.finetune": "{file: train.json, images: pictures}",
        "data.verify": "full",
        "teacher.checkpoint": "teacher",
        "teacher.stages": "[]",
        "student.checkpoint": "student",
        "stages.pt.steps": 2,
        "stages.dft.steps": 2,
        "stages.sft.steps": 2,
        "stages.pt.batch_size": 4,
        "stages.dft.batch_size": 4,
        "stages.pt.micro_batch": 2,
        "stages.dft.micro_batch": 2,
        "stages.pt.workers": 0,
        "stages.dft.workers": 0,
    }
    return [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]


def test_llava_data_trains_through_the_papers_recipe(paper_run):
    """Teacher with 1,188 rows (152,064 shrunk) and student with 1,187 (151,936 shrunk), bf16, recomputed activations."""
    assert load_vlm(Path("teacher")).get_input_embeddings().num_embeddings == 1188
    assert load_vlm(Path("student")).get_input_embeddings().num_embeddings == 1187
    refused = skd("distill", "--recipe", "tinyllava-0.5b", *paper_run, fails=True)
    assert "3 of 15 records" in refused and "no_picture" in refused and "torn_picture" in refused
    output = skd("distill", "--recipe", "tinyllava-0.5b", *paper_run, "--set", "data.max_bad=0.3")
    assert "step 2/2" in output and "VSD" in output and "kᵗ" in output
    trained = load_vlm(Path("runs/tinyllava-0.5b/student"))
    assert trained.get_input_embeddings().num_embeddings == 1187
    assert Path("runs/latest").resolve() == Path("runs/tinyllava-0.5b").resolve()
    assert Path("runs/tinyllava-0.5b/reports/training.png").stat().st_size > 10_000
    record = json.loads(next(Path("runs/tinyllava-0.5b/stages").glob("student-dft-*/stage.json")).read_text())
    assert record["data"]["unusable"] == {"no_assistant_turn": 1, "no_picture": 1, "torn_picture": 1}
    assert any(Path("runs/tinyllava-0.5b/stages").glob("student-dft-*/**/events.out.tfevents.*"))


def test_the_larger_recipe_trains_too(paper_run):
    skd(
        "distill",
        "--recipe",
        "tinyllava-1.5b",
        *paper_run,
        "--set",
        "data.max_bad=0.3",
        "--set",
        "student.checkpoint=student-1.5b",
    )
    trained = load_vlm(Path("runs/tinyllava-1.5b/student"))
    assert trained.config.text_config.hidden_size == load_vlm(Path("student-1.5b")).config.text_config.hidden_size
    assert len(list(Path("runs/tinyllava-1.5b/stages").glob("student-*/stage.json"))) == 2


def test_a_setting_reaches_the_loss_and_makes_a_new_stage(paper_run):
    common = ("distill", "--recipe", "tinyllava-0.5b", *paper_run, "--set", "data.max_bad=0.3")
    for temperature in (3, 1, 3):
        skd(*common, "--set", f"distillation.temperature={temperature}")
    records = [
        json.loads(path.read_text()) for path in Path("runs/tinyllava-0.5b/stages").glob("student-dft-*/stage.json")
    ]
    assert len(records) == 2, "one stage for each temperature, the finished one reused"
    first = [next(entry["align"] for entry in record["log"] if "align" in entry) for record in records]
    assert first[0] != pytest.approx(first[1], rel=1e-3)
    assert len(list(Path("runs/tinyllava-0.5b/stages").glob("student-pt-*/stage.json"))) == 1


def test_data_check_names_every_reason(tmp_path):
    init("model", "qwen2.5-0.5b")
    (tmp_path / "train.json").write_text(json.dumps(real_records(tmp_path / "pictures")))
    common = ("data", "check", "train.json", "--images", "pictures", "--model", "model")
    output = skd(*common, fails=True)
    for words in ("usable", "12", "no_picture", "m1", "torn_picture", "x1", "no_assistant_turn", "n1", "text only"):
        assert words in output
    assert "Error" not in skd(*common, "--max-bad", 0.5)


SMALL = {
    "roadscenes": {"train": 40, "val": 2, "test": 2, "text": 30},
    "stages": {name: {"steps": 2, "batch_size": 4} for name in ("pt", "sft", "dft")},
}


def small(nested: dict, prefix: str = "") -> list[str]:
    flat = []
    for key, value in nested.items():
        path = f"{prefix}{key}"
        flat += small(value, f"{path}.") if isinstance(value, dict) else ["--set", f"{path}={value}"]
    return flat


def test_bare_distill_runs_the_whole_built_in_recipe():
    """Every stage for real, only shorter; then the newest run is what other commands take."""
    output = skd("distill", *small(SMALL))
    for words in ("teacher", "SFT", "Switch-KD", "blind", "existence", "all", "runs/roadscenes/student"):
        assert words in output
    for name in ("data/test.json", "baseline/config.json", "student/config.json", "recipe.yaml"):
        assert (Path("runs/roadscenes") / name).exists(), name
    before = {path: path.stat().st_mtime_ns for path in Path("runs/roadscenes/stages").glob("*/stage.json")}
    assert "step" not in skd("distill", *small(SMALL)), "finished stages are not repeated"
    assert before == {path: path.stat().st_mtime_ns for path in Path("runs/roadscenes/stages").glob("*/stage.json")}
    assert "16" in skd("eval")
    skd("eval", "runs/roadscenes/baseline", "--split", "validation", "--json", "scores.json")
    scores = json.loads(Path("scores.json").read_text())
    assert scores["scores"]["all"]["total"] == 16 == len(scores["answers"])
    assert "usable" in skd("data", "check", "runs/latest/data/instruct.json")


def test_init_from_checkpoints_keeps_their_weights(tmp_path):
    from switchkd.models.vlm import save_part

    whole = make_model(tmp_path / "whole", "siglip-so400m-patch14-384", "qwen2.5-1.5b")
    for part in ("vision", "language"):
        save_part(load_vlm(whole), part, tmp_path / part, whole)
    assert "image token '<|image_pad|>'" in skd("init", "new", "--vision", "vision", "--language", "language")
    ours, theirs = load_vlm(whole).state_dict(), load_vlm(Path("new")).state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours if "projector" not in name)
    skd("init", "new", "--vision", "vision", "--language", "language", fails=True)
    skd("init", "new", "--vision", "vision", "--language", "language", "--force")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("eval",), "There is no run yet"),
        (("eval", "nowhere"), "no variant nowhere"),
        (("eval", "."), "config.json"),
        (("distill", "--recipe", "none"), "There is no recipe 'none'"),
        (("distill", "--set", "seed=x"), "'seed' has to be a whole number"),
        (
            ("distill", "--set", "teacher.checkpoint=none", "--set", "student.checkpoint=x", "--set", "compare=false"),
            "no model folder x",
        ),
        (("distill", "--run", "/proc/run"), "can't be made"),
        (("data", "check", "none.json"), "There is no run yet"),
        (("data", "roadscenes", "x", "--size", "3"), "size is 3"),
        (("data", "roadscenes", "/proc/x"), "can't be written"),
        (("init", "x", "--vision", "none", "--language", "none", "--random"), "neither a known shape"),
        (("init", "x", "--vision", "none", "--language", "none"), "no model folder none"),
        (("init", "x", "--vision", "a", "--language", "b", "--shrink"), "add --random"),
        (("train", "--nproc", "0"), "Invalid value for '--nproc'"),
        (("recipe", "none"), "There is no recipe"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_mistakes_are_one_line(arguments, message):
    output = skd(*arguments, fails=True)
    assert message in output.replace("\n", " ")
    assert not [path for path in Path().iterdir() if path.name != "runs"], "nothing half-made is left"


def test_help_of_every_command_names_its_options():
    for name, command in main.commands.items():
        output = skd(name, "--help")
        assert "Usage" in output
        options = [option for option in command.params if isinstance(option, click.Option)]
        assert all(option.help for option in options), name


def test_recipe_prints_what_it_loads():
    values = yaml.safe_load(skd("recipe", "tinyllava-0.5b"))
    assert values["stages"]["pt"]["beta2"] == 0.999 and values["distillation"]["method"] == "dbild-rkl"
    assert "Temperature" in skd("recipe")


def test_doctor_tells_what_is_there(monkeypatch):
    monkeypatch.setenv("COLUMNS", "250")
    output = skd("doctor")
    assert torch.__version__.split("+")[0] in output and "cores" in output and "ready" in output
    assert "skd ship" in output and "skd eval --suite" in output


def test_doctor_tells_what_the_processor_lacks(monkeypatch):
    has = frozenset({"ssse3", "sse4_1", "sse4_2", "popcnt"})
    monkeypatch.setenv("COLUMNS", "250")
    for module in (processor, llama_build):
        monkeypatch.setattr(module, "instructions", lambda: has)
    monkeypatch.setattr(llama_build, "compiled_instructions", lambda: frozenset({"SSSE3", "AVX2"}))
    output = skd("doctor")
    assert "processor: no AVX2 and FMA: ONNX q4 is unpacked" in output and "processor: no VNNI: int8" in output
    assert "llama.cpp: can't run here: compiled for AVX2, which this processor lacks" in output


def test_doctor_knows_what_each_install_brings():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    known = {extra: set(packages) for extra, (_, packages) in doctor._EXTRAS.items()}
    assert {re.match(r"[\w-]+", each).group() for each in project["dependencies"]} <= known["base"]
    for extra in known.keys() - {"base"}:
        needed = project["optional-dependencies"][extra]
        listed = {re.match(r"[\w-]+", each).group() for each in needed}
        # optimum is another command line to the exporter, which itself needs nothing of it.
        assert listed - {"switchkd", "optimum"} <= known[extra], extra


@pytest.mark.parametrize(
    ("command", "spins"), [("distill", "1000"), ("ablate", "1000"), ("bench", None), ("chat", None)]
)
def test_only_training_changes_how_threads_wait(command, spins, monkeypatch):
    """Without spinning, llama.cpp takes twice the time for a token."""
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    assert CliRunner().invoke(main, [command, "--help"]).exit_code == 0
    assert os.environ.get("GOMP_SPINCOUNT") == spins
    assert os.environ.get("OMP_WAIT_POLICY") == (spins and "passive")
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    CliRunner().invoke(main, [command, "--help"])
    assert os.environ["GOMP_SPINCOUNT"] == "7"  # a person's own choice
