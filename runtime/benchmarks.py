"""The paper's ten benchmarks as tasks of lmms-eval, each run in a process of its own.

Which split each figure of the paper's table 1 stands for is told by its row of LLaVA-1.5, whose figures are known from
elsewhere: MME is the perception score over 20, SciQA the questions with pictures, VQAv2 is test-dev, VizWiz the test split.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from switchkd.errors import MissingDependencyError

_LOG = "log.txt"


@dataclass(frozen=True)
class Benchmark:
    """One column of the paper's table 1."""

    title: str  # in the paper
    task: str  # lmms-eval's (0.7.3)
    data: str  # data set on the hub
    config: str = ""  # its part; "" for the only one
    metric: str = ""  # lmms-eval's; "" where only a server knows the answers
    scale: float = 100.0  # from the metric to the paper's scale
    server: str = ""  # who scores the submission file; "" where lmms-eval does
    file: str = ""  # pattern of the submission file's name, also where a server isn't needed


PAPER = (
    Benchmark("MME", "mme", "lmms-lab-encoder/MME", metric="mme_perception_score", scale=1 / 20),
    Benchmark(
        "MMB",
        "mmbench_en_dev_static",
        "lmms-lab-encoder/MMBench",
        "en",
        "gpt_eval_score",
        1.0,
        file="mmbench_en_dev_results.xlsx",
    ),
    Benchmark(
        "MMB-CN",
        "mmbench_cn_dev",
        "lmms-lab-encoder/MMBench",
        "cn",
        "gpt_eval_score",
        1.0,
        file="mmbench_cn_dev_results.xlsx",
    ),
    Benchmark(
        "VQAv2",
        "vqav2_test",
        "lmms-lab-encoder/VQAv2",
        server="EvalAI, VQA challenge, test-dev",
        file="vqav2-test-submission-*.json",
    ),
    Benchmark("GQA", "gqa", "lmms-lab-encoder/GQA", "testdev_balanced_instructions", "exact_match"),
    Benchmark("SciQA", "scienceqa_img", "lmms-lab-encoder/ScienceQA", "ScienceQA-IMG", "exact_match"),
    Benchmark("MMMU", "mmmu_val", "lmms-lab-encoder/MMMU", metric="mmmu_acc"),
    Benchmark(
        "TextVQA", "textvqa_val", "lmms-lab-encoder/textvqa", metric="exact_match", file="textvqa_submission_*.json"
    ),
    Benchmark(
        "VizWiz",
        "vizwiz_vqa_test",
        "lmms-lab-encoder/VizWiz-VQA",
        server="EvalAI, VizWiz VQA challenge, test",
        file="vizwiz_vqa-test-submission-*.json",
    ),
    Benchmark("POPE", "pope", "lmms-lab-encoder/POPE", metric="pope_f1_score"),
)
SUITES: Mapping[str, tuple[Benchmark, ...]] = {"paper": PAPER}


@dataclass(frozen=True)
class Result:
    """What came of one benchmark with one model."""

    score: float | None = None  # on the paper's scale
    submission: Path | None = None  # the file that lmms-eval wrote for a server
    failure: str = ""  # one line; "" where it went well

    def to_json(self) -> dict[str, Any]:
        """Plain objects for json.dumps."""
        file = None if self.submission is None else str(self.submission)
        return {"score": self.score, "submission": file, "failure": self.failure or None}


def result_folders(models: Sequence[Path]) -> dict[Path, Path]:
    """Model → a relative folder for its results: its name, with as many folders above it as tell all of them apart."""
    parts = {model: model.resolve().parts[1:] for model in models}
    for depth in range(1, 1 + max(map(len, parts.values()), default=0)):
        folders = {model: Path(*names[-depth:]) for model, names in parts.items()}
        if len({*folders.values()}) == len(parts):
            break
    return folders


def require_lmms_eval() -> None:
    """Raises MissingDependencyError where lmms-eval isn't installed."""
    if importlib.util.find_spec("lmms_eval") is None:
        raise MissingDependencyError(
            "Benchmarks run in lmms-eval, which isn't installed: pip install lmms-eval, "
            "or without torchvision as docs/evaluation.md tells."
        )


def has_data(benchmark: Benchmark) -> bool:
    """Whether `datasets` has prepared this data in its cache, so that no network is needed."""
    from datasets.naming import camelcase_to_snakecase

    home = Path(os.environ.get("HF_HOME") or "~/.cache/huggingface")
    chosen = os.environ.get("LMMS_EVAL_DATASETS_CACHE") or os.environ.get("HF_DATASETS_CACHE") or home / "datasets"
    owner, _, name = benchmark.data.partition("/")
    folder = Path(chosen).expanduser() / f"{owner}___{camelcase_to_snakecase(name)}" / benchmark.config
    return any(folder.glob("**/dataset_info.json"))


def run_benchmark(
    benchmark: Benchmark,
    variant: Path,
    out: Path,
    *,
    threads: int | None = None,
    limit: int | None = None,
    download: bool = False,
) -> Result:
    """Runs one benchmark of a variant; what lmms-eval prints goes to `out`/log.txt.

    Args:
        variant: an export or a checkpoint.
        out: folder for lmms-eval's results and submission file.
        limit: only the first so many questions, for trying it out.
        download: let it fetch data that isn't there.
    """
    out.mkdir(parents=True, exist_ok=True)
    before = _written(out)
    settings = f"variant={variant.resolve()}" + (f",threads={threads}" if threads else "")
    command = [sys.executable, "-m", "lmms_eval", "--model", "skd", "--model_args", settings, "--tasks", benchmark.task]
    command += ["--output_path", str(out), "--log_samples", "--batch_size", "1"]
    command += ["--limit", str(limit)] if limit else []
    offline = {} if download else {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    with (out / _LOG).open("w", encoding="utf-8") as log:
        status = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, env=os.environ | offline).returncode
    return _read(benchmark, out, before, status)


def _written(out: Path) -> dict[Path, int]:
    """Files under a folder and when each was written."""
    return {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}


def _read(benchmark: Benchmark, out: Path, before: Mapping[Path, int], status: int) -> Result:
    """What lmms-eval wrote; it ends with status 0 even where it failed, but then without results.

    Args:
        before: `_written` when it began. An older run's files don't count, but some are written again under the same name.
    """
    now = _written(out)
    new = sorted((path for path in now if now[path] != before.get(path)), key=now.__getitem__)
    results = [path for path in new if path.name.endswith("_results.json") and "submissions" not in path.parts]
    files = [path for path in new if path.parent == out / "submissions" and fnmatch(path.name, benchmark.file)]
    submission = files[-1] if files else None
    if status or not results:
        return Result(failure=f"lmms-eval ended without a result ({_last_error(out / _LOG)}); see {out / _LOG}")
    scores: dict[str, Any] = json.loads(results[-1].read_text(encoding="utf-8"))["results"][benchmark.task]
    if not benchmark.metric:
        missing = "" if submission else f"lmms-eval wrote no submission file; see {out / _LOG}"
        return Result(submission=submission, failure=missing)
    score = next((value for name, value in scores.items() if name.partition(",")[0] == benchmark.metric), None)
    if not isinstance(score, int | float):
        return Result(submission=submission, failure=f"lmms-eval gave no {benchmark.metric}; see {out / _LOG}")
    return Result(score * benchmark.scale, submission)


def _last_error(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line]
    return (errors or lines or ["it printed nothing"])[-1][-200:]
