"""A bench on disk: bench.json for programs, requests.jsonl with every request, report.html for people."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from switchkd.data.examples import choose
from switchkd.data.questions import question_text
from switchkd.errors import DataError, SkdError
from switchkd.files import write_text
from switchkd.pictures import open_image, side_by_side
from switchkd.runtime.bench import figures
from switchkd.runtime.bench.measurement import OWN_SETTINGS, PHASES, Bench
from switchkd.runtime.bench.quality import right_answers
from switchkd.runtime.bench.statistics import QUANTILES, summarise
from switchkd.runtime.bench.tables import NONE, WORDS, Grid, compare, figure, grids, spread
from switchkd.scoring import is_right

SCHEMA = 1
JSON_NAME, REQUESTS_NAME, HTML_NAME = "bench.json", "requests.jsonl", "report.html"
_SAMPLES = 18
_SAMPLE_SIDE = 240  # pixels


def write_bench(bench: Bench, summary: dict[str, Any], extra: Sequence[Grid], out: Path) -> Path:
    """Writes all three files.

    Args:
        summary: `summarise_bench`'s.
        extra: more tables for the report, such as a comparison.
        out: folder; made if it isn't there.

    Returns:
        The report's path.

    Raises:
        SkdError: the folder can't be written.
    """
    write_text(out / JSON_NAME, json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
    write_text(out / REQUESTS_NAME, "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in _rows(bench)))
    write_text(out / HTML_NAME, render(bench, summary, extra))
    return out / HTML_NAME


def read_summary(path: Path) -> dict[str, Any]:
    """An older bench.json.

    Raises:
        SkdError: it isn't there, is torn, or is newer than this reader.
    """
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SkdError(f"{path} can't be read: {getattr(error, 'strerror', None) or error}.") from error
    schema = summary.get("schema") if isinstance(summary, dict) else None
    if type(schema) is not int or schema < 1:
        raise SkdError(f"{path} is no bench.json: it names no schema.")
    if schema > SCHEMA:
        raise SkdError(f"{path} has schema {schema}, newer than {SCHEMA}, which this version reads: update skd.")
    if not all(isinstance(summary.get(key), dict) for key in ("machine", "settings", "variants")):
        raise SkdError(f"{path} is no bench.json: it has no machine, settings or variants.")
    try:
        compare(summary, summary)  # whether everything is there that a comparison reads
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        raise SkdError(f"{path} is torn: {type(error).__name__} {error}.") from error
    return summary


def render(bench: Bench, summary: dict[str, Any], extra: Sequence[Grid]) -> str:
    """report.html: one file with everything in it, no script, nothing fetched."""
    others = (own for scenario, own in OWN_SETTINGS.items() if scenario != bench.settings.scenario)
    environment = Environment(
        loader=PackageLoader("switchkd.runtime.bench", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    return environment.get_template("report.html.jinja").render(
        summary=summary,
        grids=[*grids(summary), *extra],
        phases=_phases(bench),
        drawings=_drawings(bench, summary),
        samples=_samples(bench),
        failures=bench.failures(),
        unused=("unreadable", "interrupted", *(name for own in others for name in own)),
        title=bench.title,
    )


def _rows(bench: Bench) -> list[dict[str, Any]]:
    """Every request that counts, in the order of time for each variant; seconds."""
    rows = []
    for each in bench.measurements.values():
        for request in each.requests:
            question = bench.questions[request.question]
            rows.append(
                {
                    "variant": each.name,
                    "id": question.id,
                    "kind": question.kind,
                    "expected": question.answer,
                    "answer": request.answer,
                    "right": is_right(request.answer, question.answer),
                    "seconds": request.seconds,
                    "prompt_tokens": request.prompt_tokens,
                    "reused_tokens": request.reused_tokens,
                    "new_tokens": request.new_tokens,
                }
            )
        for frame, start, end in each.camera.answered if each.camera else ():
            rows.append({"variant": each.name, "frame": frame, "start": start, "end": end})
    return rows


def _phases(bench: Bench) -> Grid | None:
    """How often and how long each phase was measured, for readers who want all of it."""
    rows = []
    for each in bench.answered():
        for phase in PHASES if each.requests else ():
            found = summarise(each.values(phase))
            if found["n"]:
                cells = [spread(found[quantile], quantile) for quantile in QUANTILES]
                ends = [figure(1e3 * found[key]) for key in ("mean", "max")]
                noise = found["p50_noise"]
                shown = NONE if noise is None else f"{100 * noise:.1f} %"
                rows.append((f"{each.name}, {WORDS[phase]}", f"{found['n']:,}", *cells, *ends, shown))
    columns = ("variant and phase", "n", *QUANTILES, "mean", "max", "noise of p50")
    return Grid("All phases, ms", columns, rows) if rows else None


def _drawings(bench: Bench, summary: dict[str, Any]) -> list[tuple[str, Markup]] | None:
    """(title, picture as a data URI); None without matplotlib."""
    try:
        return [(title, _data_uri(svg.encode(), "image/svg+xml")) for title, svg in _draw(bench, summary)]
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        return None


def _draw(bench: Bench, summary: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Titles and drawings as SVG."""
    variants = {name: each for name, each in summary["variants"].items() if "quality" in each}
    asked = [each for each in bench.answered() if each.requests]
    filmed = [each for each in bench.answered() if each.camera]
    if asked:
        yield "Accuracy against speed; the area is the peak of memory", figures.draw_pareto(variants)
        yield "Where an answer's time goes", figures.draw_phases(variants)
        yield "Time to first token", figures.draw_latencies(asked, "first_token")
        yield "Time to the whole answer", figures.draw_latencies(asked, "answer")
        if any(len(each["quality"]["accuracy"]) > 1 for each in variants.values()):
            yield "Right answers by question kind", figures.draw_kinds(variants)
    if filmed:
        yield "Age of answered frames, and the deadline", figures.draw_camera(filmed)
        yield "Memory while the camera ran", figures.draw_memory(filmed)


def _samples(bench: Bench) -> list[dict[str, Any]]:
    """Pictures with every variant's answer: one for each way of being right or wrong, so that none is flattered."""
    asked = [each for each in bench.answered() if each.requests]
    if not asked:
        return []
    answers = {each.name: each.answers() for each in asked}
    shared = sorted(set.intersection(*(set(each) for each in answers.values())))
    right = {name: right_answers(bench.questions, each) for name, each in answers.items()}
    questions = [bench.questions[index] for index in shared]
    patterns = [tuple(right[name][index] for name in answers) for index in shared]
    samples = []
    for place in choose(questions, patterns, _SAMPLES):
        index, question = shared[place], questions[place]
        try:
            picture = _thumbnail(question.images)  # `choose` takes none without
        except DataError:  # gone since it was asked about
            continue
        samples.append(
            {
                "picture": picture,
                "question": question_text(question.messages),
                "expected": question.answer,
                "answers": [(name, answers[name][index], right[name][index]) for name in answers],
            }
        )
    return samples


def _thumbnail(paths: Sequence[Path]) -> Markup:
    picture = side_by_side([*map(open_image, paths)])
    picture.thumbnail((_SAMPLE_SIDE, _SAMPLE_SIDE))
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=88)
    return _data_uri(stream.getvalue(), "image/jpeg")


def _data_uri(content: bytes, kind: str) -> Markup:
    return Markup(f"data:{kind};base64,{base64.b64encode(content).decode()}")
