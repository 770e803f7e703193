"""The paper's ten benchmarks as tasks of lmms-eval, and what running them needs.

Which split each figure of the paper's table 1 stands for is told by its row of LLaVA-1.5, whose figures are known from
elsewhere: MME is the perception score over 20, SciQA the questions with pictures, VQAv2 is test-dev, VizWiz the test split.
"""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from switchkd.errors import MissingDependencyError, SkdError

LMMS_EVAL = "0.7.3"  # its version that all of this was written against; lmms-eval.txt pins the same
TASKS = Path(__file__).parent / "tasks"  # tasks of our own, for its --include_path


@dataclass(frozen=True)
class Benchmark:
    """One column of the paper's table 1."""

    title: str  # in the paper
    task: str  # lmms-eval's
    data: str  # data set on the hub
    configs: tuple[str, ...] = ("",)  # its parts that the task reads, the questions' first; "" for the only one
    metric: str = ""  # lmms-eval's; "" where only a server knows the answers
    scale: float = 100.0  # from the metric to the paper's scale
    server: str = ""  # who scores the submission file; "" where lmms-eval does
    file: str = ""  # pattern of the submission file's name, also where a server isn't needed
    group: int = 1  # so many questions, one after the other in the data, are scored as one


PAPER = (
    Benchmark("MME", "mme", "lmms-lab-encoder/MME", metric="mme_perception_score", scale=1 / 20, group=2),
    Benchmark(
        "MMB",
        "mmbench_en_dev_static",
        "lmms-lab-encoder/MMBench",
        ("en",),
        "gpt_eval_score",
        1.0,
        file="mmbench_en_dev_results.xlsx",
    ),
    Benchmark(
        "MMB-CN",
        "mmbench_cn_dev_static",  # in TASKS
        "lmms-lab-encoder/MMBench",
        ("cn",),
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
    Benchmark(
        "GQA",
        "gqa",
        "lmms-lab-encoder/GQA",
        ("testdev_balanced_instructions", "testdev_balanced_images"),
        "exact_match",
    ),
    Benchmark("SciQA", "scienceqa_img", "lmms-lab-encoder/ScienceQA", ("ScienceQA-IMG",), "exact_match"),
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


def choose(suite: str, names: Sequence[str]) -> list[Benchmark]:
    """Benchmarks of a suite by their titles or lmms-eval's names for them, in the suite's order; all where none is named.

    Raises:
        SkdError: the suite has none of that name.
    """
    wanted = {name.casefold() for name in names}
    chosen = {each: {each.title.casefold(), each.task.casefold()} & wanted for each in SUITES[suite]}
    unknown = [name for name in names if not any(name.casefold() in found for found in chosen.values())]
    if unknown:
        titles = ", ".join(each.title for each in SUITES[suite])
        raise SkdError(f"The suite {suite} has no benchmark {unknown[0]}: --benchmark takes {titles}.")
    return [each for each, found in chosen.items() if found or not names]


def result_folders(models: Sequence[Path]) -> dict[Path, Path]:
    """Model → a relative folder for its results: its name, with as many folders above it as tell all of them apart."""
    parts = {model: model.resolve().parts[1:] for model in models}
    for depth in range(1, 1 + max(map(len, parts.values()), default=0)):
        folders = {model: Path(*names[-depth:]) for model, names in parts.items()}
        if len({*folders.values()}) == len(parts):
            break
    return folders


def require_lmms_eval() -> None:
    """Raises MissingDependencyError where lmms-eval isn't installed, or in a version whose tasks may be others."""
    try:
        version = importlib.metadata.version("lmms-eval")
    except importlib.metadata.PackageNotFoundError:
        version = ""
    if version != LMMS_EVAL:
        found = f"and {version} is installed" if version else "which isn't installed"
        raise MissingDependencyError(
            f"Benchmarks run in lmms-eval {LMMS_EVAL}, {found}: pip install lmms-eval=={LMMS_EVAL}, "
            "or without torchvision as docs/evaluation.md tells."
        )


def has_data(benchmark: Benchmark) -> bool:
    """Whether `datasets` has prepared all parts of this data in its cache, so that no network is needed."""
    from datasets.naming import camelcase_to_snakecase

    home = Path(os.environ.get("HF_HOME") or "~/.cache/huggingface")
    chosen = os.environ.get("LMMS_EVAL_DATASETS_CACHE") or os.environ.get("HF_DATASETS_CACHE") or home / "datasets"
    owner, _, name = benchmark.data.partition("/")
    folder = Path(chosen).expanduser() / f"{owner}___{camelcase_to_snakecase(name)}"
    return all(any((folder / config).glob("**/dataset_info.json")) for config in benchmark.configs)
