"""Ablations: students that differ in one thing, from several seeds, with equal steps and data (paper, tables 3 to 5)."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from switchkd.analysis.report import kept_answers, run_baselines
from switchkd.computer import usable_processors
from switchkd.data.answers import read_right, read_scores
from switchkd.errors import RecipeError
from switchkd.files import write_text
from switchkd.losses.objective import Objective
from switchkd.losses.terms import BUILT_IN, VSD, terms_of, weigh
from switchkd.recipes.recipe import METHODS, Distillation, Recipe
from switchkd.scoring import Paired, mean_interval, pair
from switchkd.training.run import Run
from switchkd.training.stages import Interrupted
from switchkd.training.teaching import require_twin, taught_by

SFT, SWITCH = "sft", "dbild-rkl+switch"
# The stage that distils without the switch, where a recipe has one: rates that suit the switch may not suit the rest.
WITHOUT_SWITCH = "kd"
# Table 4's losses without the switch, and table 3's method with it.
LOSSES = (SFT, *METHODS, SWITCH)
# Table 5: which of the two stages distils.
SCHEMES = ("pt-sft", "dpt-sft", "pt-dft", "dpt-dft")


@dataclass(frozen=True)
class Row:
    """One row of an ablation: which stages train a student, and with which objective."""

    name: str
    stages: tuple[str, ...]
    distillation: Distillation


def find_row(name: str, recipe: Recipe) -> Row:
    """A row by its name: `sft`, a loss, a loss `+switch`, or a scheme such as `dpt-sft`.

    Raises:
        RecipeError: no such row, or a scheme's stage that the recipe lacks.
    """
    base = recipe.distillation
    if name == SFT:
        require_twin(recipe)
        return Row(name, recipe.student.baseline, base)
    if name in SCHEMES:
        stages = tuple(name.split("-"))
        missing = [stage for stage in stages if stage not in recipe.stages]
        if missing:
            raise RecipeError(f"The scheme {name} needs a stage '{missing[0]}', which the recipe doesn't have.")
        for stage in stages:
            if recipe.stages[stage].distill != stage.startswith("d"):
                whether = "doesn't distil" if stage.startswith("d") else "distils"
                raise RecipeError(f"The scheme {name} means otherwise: the recipe's stage '{stage}' {whether}.")
        return Row(name, stages, base)
    method, *added = name.split("+")
    optional = {term.name if term.row is None else term.row: term for term in terms_of(base) if term.row != ""}
    if method not in METHODS or not set(added) <= set(optional):
        raise RecipeError(f"There is no ablation '{name}'; possible are {', '.join((*LOSSES, *SCHEMES))}.")
    chosen = [optional[each] for each in added]
    switch = any(term.switch for term in chosen)
    stages = recipe.student.stages
    if not switch and WITHOUT_SWITCH in recipe.stages:
        _require_equal(recipe, "dft", WITHOUT_SWITCH)
        stages = tuple(WITHOUT_SWITCH if stage == "dft" else stage for stage in stages)
    for term in chosen:
        if not term.weight(base):
            raise RecipeError(f"{name} needs {term.setting} above 0.")
    if not method.startswith("dbild"):  # a knee's settings mean nothing to the other losses, which refuse them
        base = replace(base, knee_top=None, k_min=None, k_max=None)
    fields: dict[str, Any] = {str(term.field): 0.0 for term in BUILT_IN if term.row and term not in chosen}
    terms = {each: weight for each, weight in base.terms.items() if each in added}
    objective = replace(base, method=method, terms=terms, **fields)
    counted = [weigh(recipe.stages[stage], objective) for stage in stages]
    idle = [term for term in chosen if not any(weights.get(term) for weights in counted)]
    teaches = taught_by(recipe, stages, objective)
    if idle or not teaches:
        lacking = "from the teacher"
        if teaches:
            lacking = "through the switch" if idle[0] is VSD else f"by {idle[0].name}"
        raise RecipeError(
            f"The row {name} would learn nothing {lacking}: none of its stages ({', '.join(stages)}) does."
        )
    return Row(name, stages, objective)


def _require_equal(recipe: Recipe, *names: str) -> None:
    """Raises RecipeError where stages that are compared differ in steps or data."""
    for setting in ("data", "steps", "epochs", "batch_size"):
        values = {name: getattr(recipe.stages[name], setting) for name in names if name in recipe.stages}
        if len(set(values.values())) > 1:
            told = " and ".join(f"stages.{name}.{setting}={value}" for name, value in values.items())
            raise RecipeError(f"An ablation compares equal steps and data, but the recipe has {told}; set both alike.")


@dataclass(frozen=True)
class Result:
    """One student's answers."""

    name: str
    seed: int
    accuracy: float
    right: tuple[bool, ...]


def run_ablation(run: Run, names: tuple[str, ...], seeds: tuple[int, ...], *, split: str, jobs: int) -> dict[str, Any]:
    """Trains and asks every row from every seed; what is already there is not done again.

    Args:
        run: whose teacher, parts and data all rows share.
        split: `validation` for choosing settings, `test` for the final figures.
        jobs: students trained at once, each in one process.

    Returns:
        What reports/ablation-SPLIT.json holds: {row: {"accuracy": [per seed], "gap_closed": mean, ...}, "teacher", "blind"}.
    """
    rows = [find_row(name, run.recipe) for name in names]
    for row in rows:  # what a row's loss can't use is told now, not hours later
        Objective(row.distillation, run.recipe.stages[row.stages[-1]])
    teacher = kept_answers(run, run.teacher(), split, "teacher")
    run.data_set(run.recipe.stages[rows[0].stages[-1]].data)
    tasks = [(row, seed) for seed in seeds for row in rows]
    results = {(result.name, result.seed): result for result in _work(run, tasks, split, jobs)}
    unseen = run_baselines(run, split)
    blind = None if unseen is None else unseen.blind["all"].accuracy
    summary = summarise(names, seeds, results, read_scores(teacher)["all"].accuracy, blind, split)
    write_text(run.folder / "reports" / f"ablation-{split}.json", json.dumps(summary, indent=1) + "\n")
    return summary


def _work(run: Run, tasks: list[tuple[Row, int]], split: str, jobs: int) -> Iterator[Result]:
    if jobs == 1:
        for row, seed in tasks:
            yield _train_and_ask(run, row, seed, split)
            run.console.print(f"{row.name} from seed {seed} is done")
        return
    # The stage that rows share is trained once, before they start side by side.
    first = {(row.stages[0], repr(row.distillation), seed): row for row, seed in tasks if len(row.stages) > 1}
    for (stage, _, seed), row in first.items():
        run.train_student((stage,), distillation=row.distillation, seed=seed)
    for done, result in enumerate(_side_by_side(run, tasks, split, jobs), 1):
        run.console.print(f"{done}/{len(tasks)}  {result.name} from seed {result.seed}: {100 * result.accuracy:.1f} %")
        yield result


def _side_by_side(run: Run, tasks: list[tuple[Row, int]], split: str, jobs: int) -> Iterator[Result]:
    """Results as they come. Only as many tasks are handed out as run at once: what waits in a pool can't be called back."""
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_processors() // jobs)))
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        waiting = iter(tasks)

        def start(count: int) -> set[Future[Result]]:
            return {
                pool.submit(_in_process, run.folder, run.recipe, run.restart, *task, split)
                for task in itertools.islice(waiting, count)
            }

        running = start(jobs)
        try:
            while running:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    result = future.result()
                    running |= start(1)
                    yield result
        except BaseException as error:
            # A signal may have come to this process alone; those that train save a checkpoint and end.
            for process in multiprocessing.active_children():
                process.terminate()
            if isinstance(error, KeyboardInterrupt):
                raise Interrupted(
                    "Stopped; each student in training kept a checkpoint. The same command goes on from there."
                ) from error
            raise


def _in_process(folder: Path, recipe: Recipe, restart: bool, row: Row, seed: int, split: str) -> Result:
    return _train_and_ask(Run(folder, recipe, Console(quiet=True), restart=restart), row, seed, split)


def _train_and_ask(run: Run, row: Row, seed: int, split: str) -> Result:
    model = run.train_student(row.stages, distillation=row.distillation, seed=seed)
    right = read_right(kept_answers(run, model, split, f"{row.name}, seed {seed}"))
    return Result(row.name, seed, sum(right) / len(right), tuple(right))


def summarise(
    names: tuple[str, ...],
    seeds: tuple[int, ...],
    results: dict[tuple[str, int], Result],
    teacher: float,
    blind: float | None,
    split: str,
) -> dict[str, Any]:
    """Accuracies, shares of the gap between the first row and the teacher that are closed, and paired tests."""
    first = [results[names[0], seed] for seed in seeds]
    base = sum(result.accuracy for result in first) / len(first)
    summary: dict[str, Any] = {}
    for name in names:
        of_row = [results[name, seed] for seed in seeds]
        accuracy = [result.accuracy for result in of_row]
        spread = _spread(accuracy, "mean")
        summary[name] = {
            "accuracy": accuracy,
            **spread,
            "gap_closed": (spread["mean"] - base) / (teacher - base) if teacher != base else None,
            "against_first": _paired(first, of_row),
        }
    if SWITCH in names and "dbild-rkl" in names:
        without, with_switch = ([results[name, seed] for seed in seeds] for name in ("dbild-rkl", SWITCH))
        summary[SWITCH]["against_without_switch"] = _paired(without, with_switch)
    return summary | {
        "teacher": teacher,
        "blind": blind,
        "seeds": list(seeds),
        "split": split,
        "questions": len(first[0].right),
    }


def _spread(of_seeds: list[float], name: str) -> dict[str, Any]:
    """Mean and the half width of its 95 % interval over seeds, which takes two of them at least."""
    mean, half = mean_interval(of_seeds)
    return {name: mean, "interval_half_width": half if len(of_seeds) > 1 else None}


def _paired(first: list[Result], second: list[Result]) -> dict[str, float | int | None]:
    """The difference, each seed paired with itself: its interval over seeds, and McNemar's test over the questions of all.

    The interval tells whether another seed would do as well, the test only that these students differ on these questions.
    """
    pairs = [pair(one.right, two.right) for one, two in zip(first, second, strict=True)]
    total = Paired(*(sum(getattr(p, name) for p in pairs) for name in ("only_first", "only_second", "total")))
    return _spread([each.difference for each in pairs], "difference") | {
        "only_first": total.only_first,
        "only_second": total.only_second,
        "p_value": total.p_value,
    }


def markdown_table(summary: dict[str, Any]) -> str:
    """The table as Markdown, in the form of the paper's tables 3 and 4."""
    rows = [name for name, entry in summary.items() if isinstance(entry, dict)]
    count = len(summary["seeds"])
    lines = [
        f"| method | accuracy, % ({count} seeds) | mean ± 95 % | gap closed | against {rows[0]}: points ± 95 %, McNemar's p |",
        "|---|---|---:|---:|---|",
    ]
    for name in rows:
        entry = summary[name]
        each = ", ".join(f"{100 * accuracy:.1f}" for accuracy in entry["accuracy"])
        gap = "" if entry["gap_closed"] is None else f"{100 * entry['gap_closed']:.0f} %"
        test = entry["against_first"]
        against = "" if name == rows[0] else f"{_with_interval(test, 'difference', '+.1f')}, p = {test['p_value']:.2g}"
        mean = _with_interval(entry, "mean", ".1f")
        lines.append(f"| {name} | {each} | {mean} | {gap} | {against} |")
    lines.append(f"| teacher | | {100 * summary['teacher']:.1f} | 100 % | |")
    if summary["blind"] is not None:
        lines.append(f"| blind | | {100 * summary['blind']:.1f} | | |")
    return "\n".join(lines) + "\n"


def _with_interval(entry: dict[str, Any], name: str, style: str) -> str:
    half = entry["interval_half_width"]
    return f"{100 * entry[name]:{style}}" + ("" if half is None else f" ± {100 * half:.1f}")


def draw_ablation(summary: dict[str, Any], path: Path) -> None:
    """A picture of the rows: every seed, their mean and interval, between the first row and the teacher."""
    from matplotlib.figure import Figure

    rows = [name for name, entry in summary.items() if isinstance(entry, dict)]
    figure = Figure(figsize=(7.5, 0.45 * len(rows) + 1.2), layout="constrained")
    axes = figure.add_subplot()
    for position, name in enumerate(rows):
        entry = summary[name]
        mean, half = 100 * entry["mean"], 100 * (entry["interval_half_width"] or 0)
        axes.errorbar(mean, position, xerr=half, fmt="o", capsize=3, color="C0")
        axes.scatter(
            [100 * accuracy for accuracy in entry["accuracy"]], [position] * len(entry["accuracy"]), s=12, color="0.4"
        )
    axes.axvline(100 * summary["teacher"], color="C2", linewidth=1, label="teacher")
    axes.axvline(100 * summary[rows[0]]["mean"], color="C3", linewidth=1, linestyle="--", label=rows[0])
    axes.set(yticks=range(len(rows)), yticklabels=rows, xlabel=f"accuracy on {summary['split']}, %")
    axes.invert_yaxis()
    axes.legend(fontsize=8)
    axes.grid(axis="x", alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
