"""A report's drawings, as SVG. The one module of the runtime that needs matplotlib, and only when it draws."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from switchkd.runtime.bench.grids import WORDS
from switchkd.runtime.bench.measurement import Measurement

_PARTS = ("preprocess", "encode", "prefill", "decode")  # of a whole answer, one after the other
_PART_COLOURS = ("#8c8c8c", "#3b76af", "#ef8636", "#519e3e")
_COLOURS = (
    "#3b76af",
    "#ef8636",
    "#519e3e",
    "#c53932",
    "#8d69b8",
    "#84584e",
    "#d57dbe",
    "#7f7f7f",
    "#bbbd44",
    "#58bbcc",
)
Variants = Mapping[str, Any]  # the part "variants" of bench.json


def colours(names: Sequence[str]) -> dict[str, str]:
    """A colour for each variant, the same in every drawing."""
    return {name: _COLOURS[index % len(_COLOURS)] for index, name in enumerate(names)}


def draw_pareto(variants: Variants) -> str:
    """Accuracy against time to first token; a point's area is the peak of memory."""
    figure, axes = _axes(7, 4.2)
    palette = colours(list(variants))
    peaks = [(each["memory"]["peak"] or 0) for each in variants.values()]
    placed = []
    for name, each in variants.items():
        score, time = each["quality"]["accuracy"]["all"], 1e3 * each["latency"]["first_token"]["p50"]
        value, (low, high) = 100 * score["accuracy"], (100 * bound for bound in score["interval"])
        size = 30 + 370 * (each["memory"]["peak"] or 0) / (max(peaks) or 1)
        axes.errorbar(time, value, [[value - low], [high - value]], color=palette[name], linewidth=1, capsize=3)
        axes.scatter(time, value, s=size, color=palette[name], alpha=0.6)
        placed.append((time, value, name, each["memory"]["peak"]))
    for time, value, name, peak in placed:
        label = name if peak is None else f"{name}, {peak / 1e6:,.0f} MB"
        axes.annotate(label, (time, value), xytext=(9, 9), textcoords="offset points", fontsize=8)
    axes.set(xlabel="time to first token, p50, ms", ylabel="right answers, % (95 %)")
    axes.set_xlim(left=0)
    axes.margins(x=0.25)
    axes.set_xlim(left=0)
    return _svg(figure)


def draw_phases(variants: Variants) -> str:
    """Where an answer's time goes: the phases' means on top of each other."""
    figure, axes = _axes(7, 0.9 + 0.45 * len(variants))
    names = list(variants)[::-1]
    left = np.zeros(len(names))
    for part, colour in zip(_PARTS, _PART_COLOURS, strict=True):
        widths = np.array([_mean_part(variants[name]["latency"], part) for name in names])
        axes.barh(names, widths, left=left, color=colour, label=part, height=0.6)
        left += widths
    rest = [1e3 * variants[name]["latency"]["answer"]["mean"] for name in names] - left
    axes.barh(names, np.maximum(0, rest), left=left, color="#dddddd", label="tokenizer", height=0.6)
    axes.set(xlabel="mean, ms")
    axes.legend(fontsize=8, ncols=5, loc="lower right", bbox_to_anchor=(1, 1), frameon=False)
    return _svg(figure)


def draw_latencies(measurements: Sequence[Measurement], phase: str) -> str:
    """The share of requests that were done after so many milliseconds."""
    figure, axes = _axes(7, 3.4)
    palette = colours([each.name for each in measurements])
    for each in measurements:
        values = 1e3 * np.sort(each.values(phase))
        if len(values):
            axes.step(
                values,
                np.arange(1, len(values) + 1) / len(values),
                where="post",
                color=palette[each.name],
                label=each.name,
            )
    axes.set(xlabel=f"{WORDS[phase]}, ms", ylabel="share of requests", xscale="log", ylim=(0, 1.01))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")
    axes.tick_params(axis="x", which="minor", labelsize=7)
    axes.legend(fontsize=8)
    return _svg(figure)


def draw_kinds(variants: Variants) -> str:
    """Right answers by question kind with their intervals."""
    kinds = sorted({kind for each in variants.values() for kind in each["quality"]["accuracy"]} - {"all"})
    figure, axes = _axes(7, 0.9 + max(1, len(kinds)) * (0.18 + 0.13 * len(variants)))
    palette = colours(list(variants))
    step = 0.8 / len(variants)
    for index, (name, each) in enumerate(variants.items()):
        scores = [(place, each["quality"]["accuracy"].get(kind)) for place, kind in enumerate(kinds)]
        known = [(place, score) for place, score in scores if score is not None]
        values = np.array([100 * score["accuracy"] for _, score in known])
        bounds = np.array([score["interval"] for _, score in known]).T * 100
        places = [place + step * (index - (len(variants) - 1) / 2) for place, _ in known]
        errors = np.maximum(0, [values - bounds[0], bounds[1] - values]) if len(known) else None
        axes.errorbar(values, places, xerr=errors, fmt="o", markersize=4, linewidth=1, color=palette[name], label=name)
    axes.set_yticks(range(len(kinds)), kinds)
    axes.set_ylim(len(kinds) - 0.5, -0.5)
    axes.set(xlabel="right answers, % (95 %)", xlim=(0, 100))
    axes.legend(fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False)
    return _svg(figure)


def draw_camera(measurements: Sequence[Measurement]) -> str:
    """The answered frames' ages over time, and the deadline."""
    figure, axes = _axes(7, 3.4)
    palette = colours([each.name for each in measurements])
    for each in measurements:
        assert each.camera is not None
        ages = 1e3 * np.array(each.camera.ages())
        ends = [end for _, _, end in each.camera.answered]
        axes.plot(ends, ages, ".", markersize=2.5, color=palette[each.name], label=each.name)
        axes.axhline(1e3 / each.camera.rate, color="black", linewidth=0.8, linestyle="--")
    axes.set(xlabel="seconds", ylabel="age of the answered frame, ms", yscale="log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.legend(fontsize=8, markerscale=4)
    return _svg(figure)


def draw_memory(measurements: Sequence[Measurement]) -> str:
    """Memory over time while the camera ran, relative to its start."""
    figure, axes = _axes(7, 3)
    palette = colours([each.name for each in measurements])
    for each in measurements:
        if each.memory:
            times, sizes = np.array(each.memory, float).T
            axes.plot(times, (sizes - sizes[0]) / 1e6, color=palette[each.name], linewidth=1.2, label=each.name)
    axes.set(xlabel="seconds", ylabel="memory since the start, MB")
    axes.legend(fontsize=8)
    return _svg(figure)


def _mean_part(latency: Mapping[str, Any], part: str) -> float:
    """Mean milliseconds of a request; decoding's from its tokens, as some answers have none."""
    if part != "decode":
        return 1e3 * latency[part]["mean"]
    return 1e3 * (latency["decode_seconds"] or 0.0)


def _axes(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _svg(figure: Any) -> str:
    """The drawing alone, letters as shapes, so that it looks the same everywhere."""
    from matplotlib import rc_context

    stream = io.StringIO()
    with rc_context({"svg.fonttype": "path", "text.parse_math": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a letter that the font lacks is drawn as a box
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()
