"""A bench's figures as tables of words, for the terminal and the report alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from switchkd.runtime.bench.measurement import PHASES, RATIOS
from switchkd.runtime.bench.pairs import SURE
from switchkd.runtime.bench.statistics import QUANTILES, SAMPLES_NEEDED
from switchkd.runtime.bench.verdict import GOALS

WORDS = {
    "preprocess": "resize",
    "encode": "encode",
    "prefill": "prefill",
    "first_token": "first token",
    "decode_token": "a token",
    "answer": "whole answer",
}
_LIMIT_WORDS = {"max_loss": "points lost", "max_ms": "answer, ms", "max_mb": "weights, MB"}
NONE = "–"
Summary = Mapping[str, Any]


@dataclass(frozen=True)
class Grid:
    """A table; the first column is the row's name, the others are figures."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


def grids(summary: Summary) -> list[Grid]:
    """All tables of a bench that have something to say."""
    variants = summary["variants"]
    asked = {name: each for name, each in variants.items() if "quality" in each}
    filmed = {name: each for name, each in variants.items() if each.get("camera")}
    found = []
    if asked:
        reference = summary["settings"]["reference"]
        found += [_speed(asked), _tails(asked)]
        found += [_multiples(asked, reference)] if any(each["latency"].get("beside") for each in asked.values()) else []
        found += [_quality(asked, reference), *_pairs(summary), *_text(asked, reference), _size(asked)]
        found += _limits(summary)
    if filmed:
        found += [_camera(filmed), _memory(filmed)]
    return found


def spread(value: float | None, quantile: str, scale: float = 1e3) -> str:
    """A percentile, from seconds in milliseconds; or how many samples it would need."""
    return f"n/a (needs {SAMPLES_NEEDED[quantile]:,})" if value is None else figure(scale * value)


def figure(value: float | None, form: str = "") -> str:
    """A number with three significant digits, or in a form of its own; a dash for None."""
    if value is None:
        return NONE
    if form:
        return format(value, form)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _speed(variants: Mapping[str, Any]) -> Grid:
    rows = []
    for name, each in variants.items():
        latency = each["latency"]
        medians = [spread(latency[phase]["p50"], "p50") if latency[phase]["n"] else NONE for phase in PHASES]
        medians[PHASES.index("decode_token")] = figure(latency["decode_tokens_per_second"])
        noise = latency["answer"]["p50_noise"]
        rows.append((name, *medians, figure(None if noise is None else 100 * noise, ".1f")))
    columns = [WORDS[phase] for phase in PHASES]
    columns[PHASES.index("decode_token")] = "decode tokens/s"
    warm_up = sum(each["latency"]["warm_up"] for each in variants.values())
    note = (
        "Medians; decode: all later tokens by all their time. ±: how uncertain the last one is by this run's own noise (95 %). "
        f"{warm_up} requests warmed up and aren't counted."
    )
    return Grid("Speed, ms", ("variant", *columns, "± %"), rows, note)


def _tails(variants: Mapping[str, Any]) -> Grid:
    rows = []
    for name, each in variants.items():
        for phase in ("first_token", "answer"):
            found = each["latency"][phase]
            cells = [spread(found[quantile], quantile) for quantile in QUANTILES]
            ends = [figure(1e3 * found[key]) for key in ("mean", "max")]
            rows.append((name, WORDS[phase], f"{found['n']:,}", *cells, *ends))
    note = "A percentile is told only with the samples that MLPerf asks for."
    return Grid("Latency, ms", ("variant", "of", "n", *QUANTILES, "mean", "max"), rows, note)


def _multiples(variants: Mapping[str, Any], reference: str) -> Grid:
    rows = []
    for name, each in variants.items():
        if beside := each["latency"]["beside"]:
            rows.append((name, *(_multiple(beside[phase]) for phase in RATIOS)))
    note = "Medians over questions that both were asked in turn, with 95 % intervals; 0.5 is twice as fast."
    heads = ("variant", *(WORDS[phase] for phase in RATIOS))
    return Grid(f"Time as a multiple of that of {reference}", heads, rows, note)


def _multiple(found: Summary) -> str:
    value, noise = found["p50"], found["p50_noise"]
    return f"{value:.3f}" if noise is None else f"{value:.3f} ±{value * noise:.3f}"


def _quality(variants: Mapping[str, Any], reference: str) -> Grid:
    rows = []
    for name, each in variants.items():
        quality = each["quality"]
        divergence = quality.get("divergence")
        rows.append(
            (
                name,
                accuracy_cell(quality["accuracy"]["all"]),
                _difference(quality.get("difference")),
                NONE if divergence is None else f"{divergence['kl_mean']:.2g}",
                NONE if divergence is None else spread(divergence["kl_p99"], "p99", 1),
                NONE if divergence is None else f"{100 * divergence['top1']:.1f}",
            )
        )
    note = (
        f"Right: 95 % interval. Difference: points against {reference} on the same questions, with McNemar's test. KL, nats, "
        f"and equal first choices: next tokens along the answers of {reference}, with the pictures."
    )
    return Grid("Quality", ("variant", "right, %", "difference (p)", "KL mean", "KL p99", "same first, %"), rows, note)


def _pairs(summary: Summary) -> list[Grid]:
    """Every two variants; nothing where there is one alone."""
    rows = []
    for each in summary.get("pairs", ()):
        low, high = (f"{100 * bound:+.1f}" for bound in each["interval"])
        more = NONE if each["p_value"] < SURE or not each["questions_to_tell"] else f"{each['questions_to_tell']:,}"
        difference = f"{100 * each['difference']:+.1f} ({low} to {high})"
        alone = (f"{each[key]:,}" for key in ("first_only", "second_only"))
        rows.append((each["first"], each["second"], *alone, difference, f"{each['p_value']:.2g}", more))
    note = (
        "Questions that one alone answers right; points that the second has more, with their 95 % interval (Bonett and Price); "
        "McNemar's exact test. Would tell: about how many questions would, where these don't, if the difference is what it looks "
        "like (80 % power)."
    )
    columns = ("first", "second", "first alone", "second alone", "difference", "p", "would tell")
    return [Grid("Every two on the same questions", columns, rows, note)] if rows else []


def _limits(summary: Summary) -> list[Grid]:
    """Which variant holds which limit; nothing where none was given."""
    found = summary.get("limits")
    if not found:
        return []
    names = [check["limit"] for check in next(iter(found.values()))["checks"]]
    rows = []
    for name, each in found.items():
        cells = (f"{figure(check['value'])} {check['outcome']}" for check in each["checks"])
        rows.append((name, *cells, "pass" if each["passed"] else "FAIL"))
    heads = [f"{_LIMIT_WORDS[name]} ≤ {summary['settings'][name]:g}" for name in names]
    note = "What the questions or this run's noise can't tell from a limit doesn't pass."
    return [Grid("Limits", ("variant", *heads, ""), rows, note)]


def verdict_lines(summary: Summary) -> list[tuple[str, str, str, str]]:
    """For each goal: its words, the choice, how that is known, and why."""
    verdict = summary.get("verdict") or {"goals": ()}
    return [
        (GOALS[each["goal"]], each["choice"], each["basis"], "; ".join(each["reasons"])) for each in verdict["goals"]
    ]


def _text(variants: Mapping[str, Any], reference: str) -> list[Grid]:
    """What the variants make of the package's text; nothing where the reference wasn't asked, as in older benches."""
    own = (variants.get(reference, {}).get("quality") or {}).get("text")
    if own is None:
        return []
    title, counting = "Text", figure(own["counting_perplexity"])
    if not own["can_read"]:
        said = f"{reference} can't read it: its perplexity is {figure(own['perplexity'])}, that of counting words {counting}."
        return [Grid(title, ("variant", "perplexity"), [(reference, figure(own["perplexity"]))], said)]
    rows = [(reference, figure(own["perplexity"]), NONE, NONE, NONE, NONE)]
    for name, each in variants.items():
        if (read := each["quality"].get("text")) and name != reference and read["positions"]:
            cells = figure(read["perplexity"]), f"{read['kl_mean']:.2g}", spread(read["kl_p99"], "p99", 1)
            rows.append((name, *cells, f"{100 * read['top1']:.1f}", f"{read['positions']:,}"))
    note = f"A page of English, code and chats; KL, nats, and equal first choices against {reference}."
    return [Grid(title, ("variant", "perplexity", "KL mean", "KL p99", "same first, %", "positions"), rows, note)]


def _size(variants: Mapping[str, Any]) -> Grid:
    rows = []
    for name, each in variants.items():
        sizes = [each["files"]["weights"], each["memory"]["loaded"], each["memory"]["peak"]]
        seconds = [figure(each["latency"][key]) for key in ("load", "first_answer")]
        megabytes = [figure(None if size is None else size / 1e6) for size in sizes]
        rows.append((name, *megabytes, *seconds, _joules(each)))
    columns = ("weights MB", "loaded MB", "peak MB", "load s", "first answer s", "J an answer")
    note = "Loaded, peak: the process in memory. First answer: of the requests that warm up."
    return Grid("Size, start and energy", ("variant", *columns), rows, note)


def _joules(each: Summary) -> str:
    return figure(each["energy"]["joules_per_answer"]) if each["energy"] else "n/a"


def accuracy_cell(entry: Summary) -> str:
    low, high = entry["interval"]
    return f"{100 * entry['accuracy']:.1f} ({100 * low:.0f}–{100 * high:.0f})"


def _difference(entry: Summary | None) -> str:
    return NONE if entry is None else f"{100 * entry['accuracy']:+.1f} ({entry['p_value']:.2g})"


def _camera(variants: Mapping[str, Any]) -> Grid:
    rows = []
    for name, each in variants.items():
        camera = each["camera"]
        age = camera["age"]
        rows.append(
            (
                name,
                *(f"{camera[key]:,}" for key in ("frames", "answered", "dropped", "late")),
                figure(None if camera["missed_share"] is None else 100 * camera["missed_share"], ".1f"),
                *(spread(age[quantile], quantile) if age["n"] else NONE for quantile in ("p50", "p99.9")),
                figure(None if age["max"] is None else 1e3 * age["max"]),
                _joules(each),
            )
        )
    camera = next(iter(variants.values()))["camera"]
    title = f"Camera at {camera['rate']:g} frames a second: age of answered frames, ms"
    note = (
        f"Late: answered more than {1e3 * camera['deadline']:.0f} ms after the frame came. Missed: late, or dropped because a "
        "newer frame took its place."
    )
    columns = ("frames", "answered", "dropped", "late", "missed, %", "p50", "p99.9", "max", "J an answer")
    return Grid(title, ("variant", *columns), rows, note)


def _memory(variants: Mapping[str, Any]) -> Grid:
    rows = []
    for name, each in variants.items():
        memory, growth = each["memory"], each["memory"]["growth"]
        sizes = (memory["peak"], growth["start"], growth["end"], growth.get("growth"), growth.get("growth_per_hour"))
        rows.append((name, *(figure(None if size is None else size / 1e6) for size in sizes), growth["verdict"]))
    columns = ("peak", "at the start", "at the end", "growth", "growth an hour", "verdict")
    return Grid("Memory while the camera ran, MB", ("variant", *columns), rows)
