"""How lmms-eval is called, and what is made of the files that it leaves; the real one runs in test_lmms.py."""

import json
import os
from pathlib import Path

import pytest
import yaml
from support.lmms_stand_in import calls, install_stand_in

from switchkd.runtime.lmms import run as benchmark_run
from switchkd.runtime.lmms.benchmarks import LMMS_EVAL, PAPER, TASKS, result_folders
from switchkd.runtime.lmms.run import Job, Result

ROOT = Path(__file__).parents[3]

BY_TITLE = {benchmark.title: benchmark for benchmark in PAPER}


def write(path: Path, value: object = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def test_an_older_runs_files_dont_count(tmp_path):
    """Neither its scores nor what it wrote to submit; but a file that is written again under its name does."""
    server = BY_TITLE["VQAv2"]
    old = write(tmp_path / "submissions/vqav2-test-submission-1.json")
    (tmp_path / "log.txt").write_text("")
    before = benchmark_run._written(tmp_path)
    write(tmp_path / "x_results.json", {"results": {server.task: {}}})
    found = benchmark_run._read(server, tmp_path, before, 0)
    assert found.submission is None and "no submission file" in found.failure
    os.utime(old, ns=(1, 1))
    assert benchmark_run._read(server, tmp_path, before, 0).submission == old
    new = write(tmp_path / "submissions/vqav2-test-submission-2.json")
    assert benchmark_run._read(server, tmp_path, before, 0).submission == new
    write(tmp_path / "submissions/other.json")
    assert benchmark_run._read(server, tmp_path, before, 0).submission == new
    done = benchmark_run._written(tmp_path)
    assert "without a result" in benchmark_run._read(server, tmp_path, done, 0).failure


def test_models_of_one_name_have_folders_of_their_own(tmp_path):
    one, two, other = (tmp_path / name for name in ("a/student", "b/student", "b/other"))
    assert result_folders([one]) == {one: Path("student")}
    assert result_folders([one, other]) == {one: Path("student"), other: Path("other")}
    assert result_folders([one, two]) == {one: Path("a/student"), two: Path("b/student")}
    assert result_folders([Path("/student"), Path("/x/student")]) == {
        Path("/student"): Path("student"),
        Path("/x/student"): Path("x/student"),
    }


@pytest.fixture
def model(tmp_path, monkeypatch):
    install_stand_in(tmp_path / "site", monkeypatch)
    (tmp_path / "student").mkdir()
    return tmp_path / "student"


@pytest.mark.parametrize("download", [False, True])
def test_how_lmms_eval_is_called(model, tmp_path, download):
    out = tmp_path / "out"
    job = Job(BY_TITLE["POPE"], model, "hash", out, threads=2, download=download)
    assert job.run() == Result(25.0) == job.kept()
    (call,) = calls(out)
    options, settings = call["options"], call["settings"]
    assert call["model"] == str(model) and settings.keys() == {"variant", "counts", "threads"}
    assert settings["threads"] == "2" and Path(settings["counts"]).name == "counts.json"
    assert call["offline"] == ([] if download else ["HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"])
    assert (options["--model"], options["--tasks"], options["--batch_size"]) == ("skd", "pope", "1")
    assert Path(options["--include_path"]) == TASKS and "--limit" not in options
    assert not Path(settings["variant"]).exists(), "the links are left"


@pytest.mark.parametrize(("title", "limit", "passed"), [("POPE", 19, "19"), ("MME", 19, "20"), ("MME", 20, "20")])
def test_a_limit_reaches_lmms_eval(model, tmp_path, title, limit, passed):
    """In whole pairs where the questions are scored in pairs."""
    Job(BY_TITLE[title], model, "hash", tmp_path / "out", limit=limit).run()
    assert calls(tmp_path / "out")[0]["options"]["--limit"] == passed


def test_results_in_a_folder_called_submissions_count(tmp_path):
    out = tmp_path / "submissions" / "pope"
    write(out / "x_results.json", {"results": {"pope": {"pope_f1_score,none": 0.5}}})
    assert benchmark_run._read(BY_TITLE["POPE"], out, {}, 0) == Result(50.0)


def test_our_own_tasks_are_there():
    class Names(yaml.SafeLoader):
        pass

    Names.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))
    tasks = {path.stem: yaml.load(path.read_text(), Names) for path in TASKS.glob("*.yaml")}
    ours = BY_TITLE["MMB-CN"]
    task = tasks[ours.task]
    assert (task["task"], task["dataset_path"], task["dataset_name"]) == (ours.task, ours.data, ours.configs[0])
    aggregations = {entry["metric"]: entry["aggregation"] for entry in task["metric_list"]}
    assert aggregations[ours.metric].endswith("_static")


def test_the_pinned_version_is_the_one_it_was_written_against():
    pins = dict(line.split("==") for line in (ROOT / "lmms-eval.txt").read_text().splitlines() if "==" in line)
    tested = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if line[0] != "#")
    assert pins["lmms-eval"] == LMMS_EVAL
    assert {name: version for name, version in pins.items() if tested.get(name, version) != version} == {}
    # lmms-eval imports it, and no extra but gguf brings it.
    assert {"requests", "certifi", "charset-normalizer", "idna", "urllib3"} <= pins.keys()
