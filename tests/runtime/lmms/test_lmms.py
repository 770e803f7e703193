"""The plugin in the real lmms-eval, offline: local tasks, a student that knows its answers, scores worked out by hand."""

import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from support.llava_models import make_checkpoint
from support.red_or_blue import QUESTION, red_or_blue, teach

from switchkd.cli.main import main
from switchkd.export.folder import ExportRequest, run_export
from switchkd.runtime.engines.choices import weigh
from switchkd.runtime.engines.opening import open_engine
from switchkd.runtime.engines.sampling import Sampling
from switchkd.runtime.lmms.benchmarks import PAPER, TASKS, Benchmark, has_data
from switchkd.runtime.lmms.run import Job, model_sha256

pytestmark = [
    pytest.mark.xdist_group("lmms"),
    pytest.mark.skipif(
        importlib.util.find_spec("lmms_eval") is None,
        reason="lmms-eval isn't installed: make test-lmms",
    ),
]
ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
# The student says yes to red pictures, no to blue ones. Twelve pictures and what is held to be true of them:
SHOWN = ["red"] * 6 + ["blue"] * 6
TRUE = ["yes"] * 4 + ["no"] * 2 + ["yes"] * 1 + ["no"] * 5
# 4 true positives, 2 false ones, 1 false negative, 5 true ones
SCORES = {
    "pope_accuracy": 9 / 12,
    "pope_precision": 4 / 6,
    "pope_recall": 4 / 5,
    "pope_f1_score": 8 / 11,
    "pope_yes_ratio": 5 / 12,
}


@pytest.fixture(scope="module")
def student(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("lmms")
    teach(make_checkpoint(folder / "student"))
    run_export(ExportRequest(folder / "taught", folder / "taught-q8", quant="q8", threads=1))
    return folder / "taught-q8"


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> Path:
    """Two local tasks: one scored by the functions of lmms-eval's own POPE, one of multiple choice."""
    folder = tmp_path_factory.mktemp("tasks")
    _rows(TRUE).to_parquet(folder / "questions.parquet")
    shared = {
        "dataset_path": "parquet",
        "dataset_kwargs": {"data_files": {"test": "questions.parquet"}},
        "test_split": "test",
    }
    pope = (Path(importlib.util.find_spec("lmms_eval").origin).parent / "tasks" / "pope" / "pope.yaml").read_text()
    kept = [line for line in pope.splitlines() if not line.startswith(("dataset_path", "dataset_kwargs", "  token"))]
    text = "\n".join(kept).replace('task: "pope"', "task: local_pope")
    (folder / "local_pope.yaml").write_text(_yaml(shared, text))
    (folder / "utils.py").write_text("from lmms_eval.tasks.pope.utils import *\n")
    choice = (
        "task: local_choice\noutput_type: multiple_choice\n"
        "doc_to_visual: !function utils.pope_doc_to_visual\n"
        'doc_to_text: "{{question}}\\nAnswer the question using a single word or phrase."\n'
        'doc_to_choice: ["no", "yes"]\ndoc_to_target: answer\n'
        "metric_list:\n  - metric: acc\n    aggregation: mean\n    higher_is_better: true\n"
        "  - metric: exact_match\n    aggregation: mean\n    higher_is_better: true\n"
    )
    (folder / "local_choice.yaml").write_text(_yaml(shared, choice))
    return folder


def _rows(answers: list[str | None]) -> Any:
    """The questions as a data set of the columns that POPE's and VQAv2's tasks read."""
    from datasets import Dataset, Features, Value
    from datasets import Image as Picture

    texts = dict.fromkeys(("question_id", "question", "answer"), Value("string"))
    rows = {
        "question_id": [str(n) for n in range(len(answers))],
        "image": [red_or_blue(name, n) for n, name in zip(range(len(answers)), SHOWN, strict=False)],
        "question": ["Is it red?"] * len(answers),
        "answer": answers,
    }
    return Dataset.from_dict(rows, Features({**texts, "image": Picture()}))


def _yaml(shared: dict, rest: str) -> str:
    import yaml

    return yaml.safe_dump({key: value for key, value in shared.items() if f"{key}:" not in rest}) + rest


def lmms_eval(*arguments: object, cache: Path) -> str:
    command = [sys.executable, "-m", "lmms_eval", *map(str, arguments)]
    environment = os.environ | ENVIRONMENT | {"HF_HOME": str(cache), "HF_DATASETS_CACHE": str(cache / "datasets")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_it_is_registered():
    names = {entry.name: entry.value for entry in importlib.metadata.entry_points(group="lmms_eval.models")}
    assert names["skd"] == "switchkd.runtime.lmms.plugin:manifest"


def test_scores_worked_out_by_hand(student, tasks, tmp_path):
    settings = ("--model", "skd", "--model_args", f"variant={student},threads=1", "--include_path", tasks)
    output = ("--tasks", "local_pope,local_choice", "--output_path", tmp_path / "out", "--log_samples")
    log = lmms_eval(*settings, *output, cache=tmp_path / "cache")
    found = list((tmp_path / "out").rglob("*_results.json"))
    assert found, log
    results = json.loads(found[0].read_text())["results"]
    scores = {name.partition(",")[0]: value for name, value in results["local_pope"].items()}
    assert {name: scores[name] for name in SCORES} == pytest.approx(SCORES)
    # Multiple choice: the student prefers what it would say, and says exactly that where it is the true choice.
    scores = {name.partition(",")[0]: value for name, value in results["local_choice"].items()}
    assert (scores["acc"], scores["exact_match"]) == pytest.approx((9 / 12, 9 / 12))


def test_a_delimiter_before_a_choice_is_none_of_it(student):
    """The template sets an answer apart; lmms-eval's space before a choice would be a token that no answer begins with."""
    from lmms_eval.api.instance import Instance

    from switchkd.runtime.lmms.model import ExportedStudent

    model = ExportedStudent(str(student), threads=1, context=64)
    asked = [
        Instance("loglikelihood", ("is it red ?", said), 0, {"task": "choice", "doc_id": 0, "repeats": 1})
        for said in ("yes", " yes", "\n yes")
    ]
    assert len({result.text for result in model.loglikelihood(asked)}) == 1
    model.clean()


def test_each_round_has_its_own_picture(student):
    """lmms-eval asks tasks of several rounds as single questions, with another function for the pictures each."""
    from lmms_eval.api.instance import Instance

    from switchkd.runtime.lmms.model import ExportedStudent

    model = ExportedStudent(str(student), threads=1)
    model.task_dict = {"game": {"test": [{}]}}
    answers = []
    for name in ("red", "blue", "red"):
        shown = red_or_blue(name, 7)
        about = (QUESTION, {"max_new_tokens": 4}, lambda _, shown=shown: [shown], 0, "game", "test")
        asked = Instance("generate_until", about, 0, {"task": "game", "doc_id": 0, "repeats": 1})
        answers.append(model.generate_until([asked])[0].text)
    assert answers == ["yes", "no", "yes"]
    model.clean()


def test_several_pictures_each_by_itself(student, tmp_path):
    """At the task's markers, or in front of its words: the engine's own answers. Side by side unless the student was trained on
    several, or is told."""
    from lmms_eval.api.instance import Instance

    from switchkd.runtime.lmms.model import ExportedStudent

    shown = [red_or_blue("red", 1), red_or_blue("blue", 2)]

    def said(text, variant=student, **options):
        counts = tmp_path / "counts.json"
        model = ExportedStudent(str(variant), threads=1, counts=str(counts), **options)
        model.task_dict = {"game": {"test": [{}]}}
        about = (text, "yes", lambda _: shown, 0, "game", "test")
        asked = Instance("loglikelihood", about, 0, {"task": "game", "doc_id": 0, "repeats": 1})
        loss = model.loglikelihood([asked])[0].text[0]
        model.clean()
        return loss, json.loads(counts.read_text())["joined"]

    def own(*parts):
        with open_engine(student, threads=1) as engine:
            messages = [
                {"role": "user", "content": [{"type": "text", "text": p} if p else {"type": "image"} for p in parts]}
            ]
            ids, features = engine.encode_prompt(messages), engine.encode_images(shown)
            return -weigh(engine, messages, ids, features, ["yes"]).choose(Sampling())[1].logprob / 2  # and its end

    for text, parts in (
        (QUESTION, (None, None, QUESTION)),
        (f"<image>\nand <image>\n{QUESTION}", (None, "and ", None, QUESTION)),
        (f"<image>\n{QUESTION}", (None, None, f"\n{QUESTION}")),
        (f"left <image> right <image> {QUESTION}<image>", ("left ", None, " right ", None, f" {QUESTION}")),
    ):
        loss, joined = said(text, apart=True)
        assert joined == 0 and loss == pytest.approx(own(*parts), rel=1e-4)
    assert said(QUESTION)[1] == said(QUESTION, apart=False)[1] == 1
    copy = shutil.copytree(student, tmp_path / "taught")
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps({**manifest, "pictures": 2}))
    assert said(QUESTION, copy) == said(QUESTION, apart=True)


def test_what_couldnt_be_answered_is_counted(student, tmp_path):
    from lmms_eval.api.instance import Instance

    from switchkd.runtime.lmms.model import ExportedStudent

    model = ExportedStudent(str(student), threads=1, context=128, counts=str(tmp_path / "counts.json"))
    pictures = [[red_or_blue("red", 1)], [red_or_blue("red", 1), red_or_blue("blue", 2)]]
    model.task_dict = {"local": {"test": [{}, {}, {}]}}
    for document, (text, shown) in enumerate([(QUESTION, pictures[0]), (QUESTION * 20, []), (QUESTION, pictures[1])]):
        about = (text, {}, lambda _, shown=shown: shown, document, "local", "test")
        model.generate_until([Instance("generate_until", about, 0, {"task": "local", "doc_id": 0, "repeats": 1})])
    assert json.loads((tmp_path / "counts.json").read_text()) == {"unanswered": 1, "joined": 1}
    model.clean()


@pytest.mark.parametrize(
    ("answers", "score"),
    [
        (["A", "B"], 100),
        (["A.", "dog"], 100),
        (["答案是A", "(B)"], 100),
        (["nothing of these", "我不知道"], 0),
        (["A", "A"], 50),
    ],
)
def test_chinese_mmbench_asks_nobody(answers, score, monkeypatch, tmp_path):
    """Answers that name no option are wrong; lmms-eval's own task would send them to a server, and draw a letter at last."""
    import requests
    from lmms_eval.utils import load_yaml_config

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a request")

    monkeypatch.setattr(requests, "post", refuse)
    monkeypatch.chdir(tmp_path)
    task = load_yaml_config(TASKS / "mmbench_cn_dev_static.yaml")
    about = {"question": "?", "hint": "nan", "source": "x", "split": "dev", "category": "c", "L2-category": "d"}
    options = {"A": "cat", "B": "dog", "C": "horse", "D": "car"}
    rows = [{"index": index, "answer": letter, **about, **options} for index, letter in enumerate("AB")]
    scored = [task["process_results"](row, [answer]) for row, answer in zip(rows, answers, strict=True)]
    metrics = {entry["metric"]: entry["aggregation"] for entry in task["metric_list"]}
    found = metrics["gpt_eval_score"]([each["gpt_eval_score"] for each in scored], None)
    assert found == pytest.approx(score)


def test_a_choice_that_doesnt_fit_has_no_likelihood(student):
    """And doesn't end the others."""
    from lmms_eval.api.instance import Instance

    from switchkd.runtime.lmms.model import ExportedStudent

    model = ExportedStudent(str(student), threads=1, context=64)
    texts = ["is it red ?", "is it red ? " * 100, "is it blue ?"]
    asked = [
        Instance("loglikelihood", (text, "yes"), index, {"task": "choice", "doc_id": index, "repeats": 1})
        for index, text in enumerate(texts)
    ]
    first, long, last = (result.text for result in model.loglikelihood(asked))
    assert long == (float("inf"), False)
    assert 0 < first[0] < 100 and 0 < last[0] < 100
    model.clean()


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """A data set cache as downloads leave it, holding two of the ten: POPE and VQAv2's test split."""
    from datasets import load_dataset

    cache = tmp_path / "cache"
    for name, value in (ENVIRONMENT | {"HF_HOME": str(cache), "HF_DATASETS_CACHE": str(cache / "datasets")}).items():
        monkeypatch.setenv(name, value)
    for name, answers in (("pope", TRUE), ("vq_av2", [None] * 3)):
        _rows(answers).to_parquet(tmp_path / f"{name}.parquet")
        files = {"test": str(tmp_path / f"{name}.parquet")}
        load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / name))
        (built,) = (path.parent for path in (tmp_path / name).glob("parquet/*/*/*/dataset_info.json"))
        there = cache / "datasets" / f"lmms-lab-encoder___{name}" / "default" / "0.0.0" / ("a" * 40)
        shutil.copytree(built, there)
        (there / "parquet-test.arrow").rename(there / f"{name}-test.arrow")
        info = (there / "dataset_info.json").read_text()
        (there / "dataset_info.json").write_text(info.replace('"dataset_name": "parquet"', f'"dataset_name": "{name}"'))
    return cache


def test_the_papers_suite(student, cache, tmp_path):
    out = tmp_path / "out, of 'it' [all]"
    arguments = ("eval", student, "--suite", "paper", "--threads", 1, "--out", out)
    result = CliRunner().invoke(main, [str(one) for one in arguments], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    rows = {
        cells[0]: cells[1:] for line in result.output.splitlines() if len(cells := re.split(r"  +", line.strip())) == 4
    }
    assert rows["POPE"] == ["pope", f"{100 * SCORES['pope_f1_score']:.1f}", "lmms-eval"]
    assert rows["VQAv2"] == ["vqav2_test", "to submit", "EvalAI, VQA challenge, test-dev"]
    assert rows["MME"] == ["mme", "no data", "lmms-eval"] and rows["VizWiz"][1] == "no data"
    (file,) = (out / student.name / "vqav2_test" / "submissions").iterdir()
    assert f"submission file of VQAv2 by {student}: {file}" in result.output
    assert json.loads(file.read_text()) == [{"question_id": str(n), "answer": "yes"} for n in range(3)]


def test_lmms_eval_knows_the_papers_tasks(tmp_path):
    """By the names, data, parts and metrics that the suite goes by."""
    from lmms_eval.tasks import TaskManager
    from lmms_eval.utils import load_yaml_config

    manager = TaskManager("ERROR", include_path=str(TASKS))
    for benchmark in PAPER:
        config = load_yaml_config(manager.task_index[benchmark.task]["yaml_path"])
        assert (config["dataset_path"], config.get("dataset_name", "")) == (benchmark.data, benchmark.configs[0])
        metrics = {entry["metric"] for entry in config["metric_list"]}
        assert (benchmark.metric or "submission") in metrics and ("submission" in metrics) == bool(benchmark.file)


def test_a_benchmark_that_fails_says_so(student, cache, tmp_path):
    result = Job(PAPER[-1], tmp_path, model_sha256(tmp_path), tmp_path / "out").run()  # a folder that is no export
    assert result.score is None and "neither an export" in result.failure and "log.txt" in result.failure


def test_chinese_mmbench_differs_from_lmms_evals_in_its_scoring_alone():
    from lmms_eval.tasks import TaskManager
    from lmms_eval.utils import load_yaml_config

    manager = TaskManager("ERROR", include_path=str(TASKS))
    ours, theirs = (
        load_yaml_config(manager.task_index[name]["yaml_path"]) for name in ("mmbench_cn_dev_static", "mmbench_cn_dev")
    )
    apart = ("task", "metric_list", "model_specific_generation_kwargs")
    for name in (ours.keys() | theirs.keys()) - {*apart}:
        both = [getattr(config[name], "__qualname__", config[name]) for config in (ours, theirs)]
        assert both[0] == both[1], name


def test_data_is_there_when_all_its_parts_are(cache):
    two = Benchmark("Two", "two", "lmms-lab-encoder/POPE", ("default", "pictures"))
    assert has_data(PAPER[-1]) and not has_data(two)
    folder = cache / "datasets" / "lmms-lab-encoder___pope"
    shutil.copytree(folder / "default", folder / "pictures")
    assert has_data(two)
    assert len(next(benchmark for benchmark in PAPER if benchmark.title == "GQA").configs) == 2
