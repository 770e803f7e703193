"""A report's drawings, as SVG. The one module of the runtime that needs matplotlib, and only when it draws."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from switchkd.runtime.bench.measurement import Measurement
from switchkd.runtime.bench.tables import WORDS

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
_WIDTH = 5.2  # inches: letters of 8 points can still be read where all of it is 375 pixels wide
_LIMIT = "#c0241c"
Variants = Mapping[str, Any]  # the part "variants" of bench.json


def colours(names: Sequence[str]) -> dict[str, str]:
    """A colour for each variant, the same in every drawing."""
    return {name: _COLOURS[index % len(_COLOURS)] for index, name in enumerate(names)}


def draw_pareto(summary: Mapping[str, Any], variants: Variants) -> str:
    """Accuracy against the whole answer's time, with the limits and with what the teacher and who doesn't look get right; a point's
    area is the peak of memory, a line joins those that none beats in both."""
    figure, axes = _axes(_WIDTH, 4.2)
    palette = colours(list(variants))
    most = max((each["memory"]["peak"] or 0 for each in variants.values()), default=0) or 1
    points = []
    for name, each in variants.items():
        score, peak = each["quality"]["accuracy"]["all"], each["memory"]["peak"]
        time, value = 1e3 * each["latency"]["answer"]["p50"], 100 * score["accuracy"]
        low, high = (100 * bound for bound in score["interval"])
        label = _label(name) if peak is None else f"{_label(name)}, {peak / 1e6:,.0f} MB"
        axes.errorbar(
            time, value, np.maximum(0, [[value - low], [high - value]]), color=palette[name], linewidth=1, capsize=3
        )
        axes.scatter(time, value, s=20 + 380 * (peak or 0) / most, color=palette[name], alpha=0.6, label=label)
        points.append((time, value))
    axes.plot(*zip(*pareto_front(points), strict=True), color="0.6", linewidth=1, linestyle=":", zorder=0)
    for (name, share), style in zip(summary["yardsticks"].items(), ("-.", (0, (1, 3))), strict=False):
        axes.axhline(100 * share, color="0.35", linewidth=1, linestyle=style, label=f"{name}, {100 * share:.1f} %")
    _draw_limits(axes, summary, variants)
    axes.set(xlabel="whole answer, p50, ms", ylabel="right answers, % (95 %)")
    _logarithmic(axes, "x")
    axes.margins(x=0.15)
    legend = axes.legend(fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False)
    for handle in legend.legend_handles:
        if hasattr(handle, "set_sizes"):
            handle.set_sizes([40])
    return _svg(figure)


def _draw_limits(axes: Any, summary: Mapping[str, Any], variants: Variants) -> None:
    """The lines that `--max-loss` and `--max-ms` set: variants pass above the one and left of the other."""
    settings = summary["settings"]
    if settings["max_loss"] is not None:
        least = 100 * variants[settings["reference"]]["quality"]["accuracy"]["all"]["accuracy"] - settings["max_loss"]
        axes.axhline(
            least, color=_LIMIT, linewidth=1.2, linestyle="--", label=f"at most {settings['max_loss']:g} points lost"
        )
    if settings["max_ms"] is not None:
        axes.axvline(settings["max_ms"], color=_LIMIT, linewidth=1.2, label=f"at most {settings['max_ms']:g} ms")


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points (cost, worth) for which no other is at least as good in both and better in one, by rising cost."""
    front: list[tuple[float, float]] = []
    for cost, worth in sorted(set(points), key=lambda point: (point[0], -point[1])):
        if not front or worth > front[-1][1]:
            front.append((cost, worth))
    return front


def draw_phases(variants: Variants) -> str:
    """Where an answer's time goes: the phases' means on top of each other."""
    figure, axes = _axes(_WIDTH, 1.1 + 0.45 * len(variants))
    names = list(variants)[::-1]
    left = np.zeros(len(names))
    for part, colour in zip(_PARTS, _PART_COLOURS, strict=True):
        widths = np.array([_mean_part(variants[name]["latency"], part) for name in names])
        axes.barh(names, widths, left=left, color=colour, label=WORDS.get(part, part), height=0.6)
        left += widths
    rest = [1e3 * variants[name]["latency"]["answer"]["mean"] for name in names] - left
    axes.barh(names, np.maximum(0, rest), left=left, color="#dddddd", label="tokenizer", height=0.6)
    axes.set(xlabel="mean, ms")
    axes.legend(fontsize=8, ncols=3, loc="lower right", bbox_to_anchor=(1, 1), frameon=False)
    return _svg(figure)


def draw_latencies(measurements: Sequence[Measurement], phase: str) -> str:
    """The share of requests that were done after so many milliseconds."""
    figure, axes = _axes(_WIDTH, 3.4)
    palette = colours([each.name for each in measurements])
    for each in measurements:
        values = 1e3 * np.sort(each.values(phase))
        if len(values):
            axes.step(
                values,
                np.arange(1, len(values) + 1) / len(values),
                where="post",
                color=palette[each.name],
                label=_label(each.name),
            )
    axes.set(xlabel=f"{WORDS[phase]}, ms", ylabel="share of requests", ylim=(0, 1.01))
    _logarithmic(axes, "x")
    axes.legend(fontsize=8)
    return _svg(figure)


def draw_kinds(variants: Variants) -> str:
    """Right answers by question kind with their intervals."""
    kinds = sorted({kind for each in variants.values() for kind in each["quality"]["accuracy"]} - {"all"})
    figure, axes = _axes(_WIDTH, 0.9 + max(1, len(kinds)) * (0.18 + 0.13 * len(variants)))
    palette = colours(list(variants))
    step = 0.8 / len(variants)
    for index, (name, each) in enumerate(variants.items()):
        scores = [(place, each["quality"]["accuracy"].get(kind)) for place, kind in enumerate(kinds)]
        known = [(place, score) for place, score in scores if score is not None]
        values = np.array([100 * score["accuracy"] for _, score in known])
        bounds = np.array([score["interval"] for _, score in known]).T * 100
        places = [place + step * (index - (len(variants) - 1) / 2) for place, _ in known]
        errors = np.maximum(0, [values - bounds[0], bounds[1] - values]) if len(known) else None
        axes.errorbar(
            values, places, xerr=errors, fmt="o", markersize=4, linewidth=1, color=palette[name], label=_label(name)
        )
    axes.set_yticks(range(len(kinds)), kinds)
    axes.set_ylim(len(kinds) - 0.5, -0.5)
    axes.set(xlabel="right answers, % (95 %)", xlim=(0, 100))
    axes.legend(fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False)
    return _svg(figure)


def draw_camera(measurements: Sequence[Measurement]) -> str:
    """The answered frames' ages over time, and the deadline."""
    figure, axes = _axes(_WIDTH, 3.4)
    palette = colours([each.name for each in measurements])
    for each in measurements:
        assert each.camera is not None
        ages = 1e3 * np.array(each.camera.ages())
        ends = [end for _, _, end in each.camera.answered]
        axes.plot(ends, ages, ".", markersize=2.5, color=palette[each.name], label=_label(each.name))
        axes.axhline(1e3 / each.camera.rate, color="black", linewidth=0.8, linestyle="--")
    axes.set(xlabel="seconds", ylabel="age of the answered frame, ms")
    _logarithmic(axes, "y")
    axes.legend(fontsize=8, markerscale=4)
    return _svg(figure)


def draw_memory(measurements: Sequence[Measurement]) -> str:
    """Memory over time while the camera ran, relative to its start."""
    figure, axes = _axes(_WIDTH, 3)
    palette = colours([each.name for each in measurements])
    for each in measurements:
        if each.memory:
            times, sizes = np.array(each.memory, float).T
            axes.plot(times, (sizes - sizes[0]) / 1e6, color=palette[each.name], linewidth=1.2, label=_label(each.name))
    axes.set(xlabel="seconds", ylabel="memory since the start, MB")
    axes.legend(fontsize=8)
    return _svg(figure)


def _label(name: str) -> str:
    """In a legend, which leaves out what begins with an underscore."""
    return f" {name}" if name.startswith("_") else name


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


def _logarithmic(axes: Any, direction: str) -> None:
    """A logarithmic axis with plain numbers at 1, 2 and 5."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set(**{f"{direction}scale": "log"})
    axis = axes.xaxis if direction == "x" else axes.yaxis
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def _svg(figure: Any) -> str:
    """The drawing alone, letters as shapes, so that it looks the same everywhere."""
    from matplotlib import rc_context

    stream = io.StringIO()
    with rc_context({"svg.fonttype": "path", "text.parse_math": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a letter that the font lacks is drawn as a box
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()
