"""reports/index.html: one page about a run, from its data to its packages, made of the files that are there. No torch."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from switchkd.errors import SkdError
from switchkd.files import write_text
from switchkd.manifest import FILE_NAME, Manifest
from switchkd.run_contents import RunContents, is_run, read_mapping, run_contents
from switchkd.runs import RECIPE, STAGE_RECORD, recorded_recipe

PAGE = Path("reports") / "index.html"
_BENCHES = {"bench": "one request after another", "bench-camera": "frames of a camera"}
_NONE = "–"


@dataclass(frozen=True)
class Link:
    """A file or folder of the run."""

    text: str
    target: str  # from the page's folder


@dataclass
class Section:
    """One station of the way."""

    title: str
    columns: tuple[str, ...] = ()
    rows: list[tuple[str | Link, ...]] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)
    pictures: list[tuple[str, str, Markup]] = field(default_factory=list)  # (what it shows, its file, data URI)
    otherwise: str = ""  # the command that fills it, while it is empty


def write_page(run: Path) -> Path:
    """Makes a run's page anew. Raises SkdError where it can't be written."""
    contents = run_contents(run)
    sections = [
        _data(run),
        _training(run, contents),
        _accuracy(run),
        _exports(run, contents),
        _bench(run),
        _packages(run, contents),
    ]
    environment = Environment(
        loader=PackageLoader("switchkd", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    template = environment.get_template("run_page.html.jinja")
    write_text(run / PAGE, template.render(name=run.resolve().name, recipe=contents.recipe, sections=sections))
    return run / PAGE


def refresh_page(added: Path) -> None:
    """Makes the page anew of the run in which a file or folder was added; elsewhere nothing."""
    for folder in list(added.absolute().parents)[:3]:
        if is_run(folder):
            write_page(folder)
            return


def _data(run: Path) -> Section:
    section = Section("Data", ("file", "records", "usable", "left out"))
    try:
        recipe = recorded_recipe(run)
        sets, stages = recipe["data"]["sets"], recipe["stages"]
        files = {name: sets[stage["data"]]["file"] for name, stage in stages.items()}
        test = recipe["data"]["test"]
    except (SkdError, KeyError, TypeError, AttributeError):
        return section
    seen = {}
    for record in _stages(run):
        counts, name = record.get("data", {}), str(record.get("title", "")).rpartition(" ")[2]
        if name in files:
            unusable = ", ".join(f"{count} {reason}" for reason, count in counts.get("unusable", {}).items())
            row = (str(counts.get("total", _NONE)), str(counts.get("usable", _NONE)), unusable or "none")
            seen[Path(files[name]).name] = row
    section.rows += [(file, *row) for file, row in seen.items()]
    asked = _overall(read_mapping(run / "reports" / "accuracy.json"))
    if asked:
        total = str(next(iter(asked.values())).get("total", _NONE))
        section.rows.append((f"{Path(test).name}, questions", total, total, "none"))
    return section


def _training(run: Path, contents: RunContents) -> Section:
    section = Section("Training", ("stage", "steps", "minutes", "last loss"), otherwise="skd distill")
    for record in _stages(run):
        losses = [entry["loss"] for entry in record.get("log", []) if isinstance(entry.get("loss"), float)]
        minutes = f"{record['seconds'] / 60:.1f}" if isinstance(record.get("seconds"), int | float) else _NONE
        loss = f"{losses[-1]:.3f}" if losses else _NONE
        section.rows.append((str(record.get("title")), str(record.get("steps", _NONE)), minutes, loss))
    section.rows += [(f"{name}, interrupted", _NONE, _NONE, _NONE) for name in contents.begun]
    section.links.append(Link("every setting", f"../{RECIPE}"))
    section.pictures += _pictures(run, {"training.png": "losses and knees, stage by stage"})
    return section


def _accuracy(run: Path) -> Section:
    otherwise = "skd distill … --eval questions.json"
    section = Section("Accuracy", ("model", "right, %", "95 % interval", "questions"), otherwise=otherwise)
    for name, score in _overall(read_mapping(run / "reports" / "accuracy.json")).items():
        low, high = (f"{100 * end:.0f}" for end in score["interval"])
        section.rows.append((name, f"{100 * score['accuracy']:.1f}", f"{low}–{high}", str(score["total"])))
    shown = ("accuracy.json", "ablation-test.md", "ablation-validation.md")
    section.links += [Link(name, name) for name in shown if (run / "reports" / name).exists()]
    drawn = {
        "answers.png": "one question for each way of being right or wrong",
        "ablation-test.png": "methods compared on the test questions",
        "ablation-validation.png": "methods compared on the validation questions",
        "attention.png": "where the models look",
    }
    section.pictures += _pictures(run, drawn)
    return section


def _exports(run: Path, contents: RunContents) -> Section:
    columns = ("export", "language model", "vision", "MB", "mean KL, nats")
    section = Section("Exports", columns, otherwise="skd export --format gguf --quant q4")
    for name in contents.exports:
        link = Link(name, f"../exports/{quote(name)}/")
        try:
            manifest = Manifest.load(run / "exports" / name, verify=False)
            loss = manifest.parity.get("loss", {}).get("kl_mean")
        except (SkdError, AttributeError):
            section.rows.append((link, *[_NONE] * 4))
            continue
        divergence = f"{loss:.2g}" if isinstance(loss, float) else _NONE
        cells = (f"{manifest.format} {manifest.quant}", manifest.vision_quant, f"{manifest.size / 1e6:.1f}", divergence)
        section.rows.append((link, *cells))
    section.links += [Link(f"{name}: manifest", f"../exports/{quote(name)}/{FILE_NAME}") for name in contents.exports]
    return section


def _bench(run: Path) -> Section:
    columns = ("variant", "first token, ms", "whole answer, ms", "right, %")
    section = Section("Bench", columns, otherwise="skd bench --device cpu")
    for folder, what in _BENCHES.items():
        report = Path("reports") / folder / "report.html"
        if (run / report).exists():
            section.links.append(Link(f"report: {what}", f"{folder}/{report.name}"))
    bench = read_mapping(run / "reports" / "bench" / "bench.json")
    for name in _within(bench, "variants") or ():
        times = (_within(bench, "variants", name, "latency", phase, "p50") for phase in ("first_token", "answer"))
        shown = (f"{1e3 * time:.3g}" if isinstance(time, float) else _NONE for time in times)
        right = _within(bench, "variants", name, "quality", "accuracy", "all", "accuracy")
        section.rows.append((name, *shown, f"{100 * right:.1f}" if isinstance(right, float) else _NONE))
    return section


def _within(values: Any, *names: str) -> Any:
    """What lies under these names of a file that somebody may have changed; None where it isn't there."""
    for name in names:
        values = values.get(name) if isinstance(values, dict) else None
    return values


def _packages(run: Path, contents: RunContents) -> Section:
    otherwise = "skd ship VARIANT --target NAME --key FILE"
    section = Section("Packages", ("package", "MB"), otherwise=otherwise)
    for name in contents.packages:
        size = (run / "packages" / name).stat().st_size / 1e6
        section.rows.append((Link(name, f"../packages/{quote(name)}"), f"{size:.1f}"))
    return section


def _stages(run: Path) -> Iterator[dict[str, Any]]:
    """Records of finished stages, in the order of their ends."""
    for path in sorted((run / "stages").glob(f"*/{STAGE_RECORD}"), key=lambda path: path.stat().st_mtime):
        yield read_mapping(path)


def _overall(accuracy: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Each model's score over all questions, of an accuracy.json."""
    named = {name: scores.get("all") for name, scores in accuracy.items() if isinstance(scores, dict)}
    return {name: score for name, score in named.items() if isinstance(score, dict)}


def _pictures(run: Path, names: Mapping[str, str]) -> Iterator[tuple[str, str, Markup]]:
    for name, what in names.items():
        path = run / "reports" / name
        if path.is_file():
            yield what, name, Markup(f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}")
