"""How good the predictions of `skd hardware fit` are: against engines timed here, and against published decoding speeds.

    python benchmarks/hardware.py VARIANT… --threads 2 --out docs/results/hardware.md

The variants are export folders; real shapes of random weights do: `skd init --random`, then `skd export`. The processor's
rates are measured before and after the engines and the better ones are taken, as what else runs only slows it down. Engines
are timed in turns. Without variants only the published figures are compared.

On a busy computer wall-clock times say little; `--processor-time` counts the process's own seconds of one thread instead:

    OMP_NUM_THREADS=1 python benchmarks/hardware.py VARIANT… --processor-time
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, product
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image
from turns import TEXT_TOKENS, take_turns, time_request

from switchkd.hardware.fit import Fit, fit, seconds
from switchkd.hardware.profile import Figure, Profile, load_profile
from switchkd.hardware.rates import ACCELERATOR, CPU, rates_of
from switchkd.hardware.runtimes import GGUF
from switchkd.hardware.workload import Language, StoredModel, Workload
from switchkd.runtime.computer.local import processor_name
from switchkd.runtime.computer.measure import measure
from switchkd.runtime.computer.profile import describe, probe_local
from switchkd.runtime.computer.workloads import read_workload
from switchkd.runtime.engines.opening import open_engine, usable_processors

AIM = 0.3  # of the measured value, for encode and decode
MEASURED = ("memory_read_gbps", "matrix_f32_gmacs", "matrix_int8_gmacs", "vector_int8_gmacs")
QWEN25_05B = Language(24, 896, 4864, 14, 2, 64, 151936)
QWEN25_15B = Language(28, 1536, 8960, 12, 2, 128, 151936)
QWEN3_06B = Language(28, 1024, 3072, 16, 8, 128, 151936)
QWEN3_17B = Language(28, 2048, 6144, 16, 8, 128, 151936)
LLAMA32_1B = Language(16, 2048, 8192, 32, 8, 64, 128256)
TINYLLAMA = Language(22, 2048, 5632, 32, 4, 64, 32000)


@dataclass(frozen=True)
class Published:
    """A decoding speed that somebody measured."""

    target: str
    model: str
    language: Language
    bits: tuple[float, float]  # of a weight with its share of scales: in the blocks, in the head
    tokens_per_second: float
    runtime: str
    processor: str = ACCELERATOR
    quant: str = "q4_0"  # the kernel on a CPU
    chosen_on: bool = False  # the constants for CPUs were chosen on this one

    def workload(self) -> Workload:
        """The model as a plain decoder."""
        blocks = self.language.layers * self.language.block_weights * self.bits[0]
        size = round((blocks + self.language.head_weights * self.bits[1]) / 8)
        return Workload(self.model, self.language, StoredModel(GGUF, self.quant, size, size))


EDGE = "TensorRT-Edge-LLM 0.8, int4"
INT4 = (4.5, 4.5)
PUBLISHED = (
    *(
        Published(target, model, language, INT4, speed, EDGE)
        for target, speeds in (
            ("jetson-orin-nano", (69, 36)),
            ("jetson-orin-nx", (111, 59)),
            ("jetson-agx-orin", (177, 96)),
            ("jetson-t5000", (194, 120)),
        )
        for model, language, speed in zip(("Qwen3-0.6B", "Qwen3-1.7B"), (QWEN3_06B, QWEN3_17B), speeds, strict=True)
    ),
    Published("rk3588", "Qwen2-0.5B", QWEN25_05B, (8, 8), 41.6, "RKLLM, w8a8"),
    Published("rk3588", "Qwen2.5-1.5B", QWEN25_15B, (8, 8), 16.7, "RKLLM, w8a8"),
    Published("snapdragon-8-gen-3", "Qwen2.5-1.5B", QWEN25_15B, (4.5, 6.56), 27.9, "llama.cpp OpenCL, Q4_0"),
    Published("sa8295p", "Llama-3.2-1B", LLAMA32_1B, (4, 4), 11.0, "Genie, w4"),
    Published("raspberry-pi-5", "TinyLlama-1.1B", TINYLLAMA, (8.5, 8.5), 9, "llama.cpp, Q8_0", CPU, "q8_0"),
    *(
        Published("raspberry-pi-5", "0.5B", QWEN25_05B, (bits, bits), speed, f"llama.cpp, {name}", CPU, quant, True)
        for name, quant, bits, speed in (
            ("Q4_K_M", "q5_0", 0.398 * 8 / 0.494, 25.77),
            ("Q5_K_M", "q5_0", 0.420 * 8 / 0.494, 23.23),
            ("Q8_0", "q8_0", 0.531 * 8 / 0.494, 19.87),
        )
    ),
)
HEAD_LENGTH = 128  # tokens in memory while decoding


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", nargs="*", type=Path, help="export folders")
    parser.add_argument("--threads", type=int, default=usable_processors())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=32, help="decoded in each round")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each of the four rates, before and after")
    parser.add_argument("--processor-time", action="store_true", help="of one thread; for busy computers")
    parser.add_argument("--out", type=Path, help="Markdown file; default: the terminal")
    parser.add_argument("--memory-of", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        print(json.dumps(peak_memory(options.memory_of, options.threads)))
        return
    if options.processor_time:
        options.threads = 1
        time.perf_counter = time.process_time  # what engines and `measure` read
    here = list(local_section(options)) if options.variants else []
    report = "\n".join(["# Predictions of `skd hardware fit`, judged", "", *here, *published_section()]) + "\n"
    if options.out:
        options.out.write_text(report, encoding="utf-8")
    print(report)


def local_section(options: argparse.Namespace) -> Iterator[str]:
    """This computer: every variant's phases, predicted and measured."""
    load = os.getloadavg()[0]
    before = rates_here(options)
    names = [str(variant) for variant in options.variants]
    memory = {name: measured_memory(name, options.threads) for name in names}
    engines = {name: open_engine(name, threads=options.threads) for name in names}
    times = list(islice(take_turns(engines, tokens=options.tokens), options.rounds))[-1]
    for engine in engines.values():
        engine.close()
    after = rates_here(options)
    profile = better(before, after)
    asked = {"text_tokens": TEXT_TOKENS, "answer_tokens": options.tokens}
    fits = {name: fit(work := read_workload(name), profile, context=context_of(work), **asked) for name in names}
    clock = "processor" if options.processor_time else "wall-clock"
    figures = ", ".join(f"{field} {profile.value(field):g}" for field in MEASURED if profile.value(field))
    yield from (
        "## This computer",
        "",
        f"{processor_name()}, {options.threads} threads, {clock} time; {figures}; Python {platform.python_version()}.",
        f"Load {load:.1f} before, {os.getloadavg()[0]:.1f} after; {options.rounds} rounds in turns after one to warm up,",
        f"medians; a picture, {TEXT_TOKENS} tokens of text, {options.tokens} tokens decoded. The error is that of the",
        f"predicted value against the measured one; **bold** beyond ±{AIM:.0%}. Rates measured before and after, in that order:",
        "; ".join(
            f"{field} {before.value(field):g} and {after.value(field):g}" for field in MEASURED if before.value(field)
        ),
        "The kernels' shares were chosen on earlier measurements of such students (hardware/runtimes.py): what is judged here is",
        "how well they carry over to these shapes and this computer.",
        "",
        "| variant | phase | predicted | band | measured | error |",
        "|---|---|---:|---:|---:|---:|",
    )
    for name in names:
        yield from local_rows(Path(name).name, fits[name], {phase: median(each) for phase, each in times[name].items()})
        total = fits[name].memory.total / 1e6
        yield f"| | memory, MB | {total:.0f} | – | {memory[name] / 1e6:.0f} | {error(total, memory[name] / 1e6)} |"
    yield from ("", f"    python {shlex.join(sys.argv)}", "")


def rates_here(options: argparse.Namespace) -> Profile:
    """This computer, measured in a process of its own, or in this one where its own time counts."""
    if options.processor_time:
        return describe(measure(1, options.seconds))
    return probe_local(threads=options.threads, seconds=options.seconds, keep=False)


def local_rows(name: str, predicted: Fit, measured: dict[str, float]) -> Iterator[str]:
    """One variant's phases, in milliseconds."""
    for title, estimate, phase in (
        ("encode, ms", predicted.encode, "encode"),
        ("prefill, ms", predicted.prefill, "prefill"),
        ("decode, ms/token", predicted.token, "decode"),
    ):
        cells = ["–", "–", f"{1e3 * measured[phase]:.3g}", "–"]
        if estimate is not None:
            low, value, high = (1e3 * each for each in (estimate.low, estimate.value, estimate.high))
            cells = [f"{value:.3g}", f"{low:.3g}–{high:.3g}", cells[2], error(value, 1e3 * measured[phase])]
        yield f"| {name if phase == 'encode' else ''} | {title} | {' | '.join(cells)} |"


def context_of(workload: Workload) -> int:
    """What `open_engine` takes by default, or what the model was trained on."""
    return min(4096, workload.trained_context)


def better(one: Profile, other: Profile) -> Profile:
    """The higher of two measurements, field by field."""
    figures: dict[str, Figure] = dict(one.figures)
    for field in MEASURED:
        if field in figures:
            figures[field] = max(one.figures[field], other.figures[field], key=lambda figure: figure.value)
    return replace(one, figures=figures)


def measured_memory(variant: str, threads: int) -> float:
    """Peak resident bytes of a process that answers one question with this variant."""
    command = [sys.executable, __file__, "--memory-of", variant, "--threads", str(threads)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def peak_memory(variant: Path, threads: int) -> int:
    """The same of this process. Linux's own file, as getrusage counts what the parent held when it started this one."""
    with open_engine(variant, threads=threads, verify=False) as engine:
        picture = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
        time_request(engine, Image.fromarray(picture), 4)
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def published_section() -> Iterator[str]:
    """Decoding speeds that others measured, most of them on accelerators with other runtimes."""
    yield from (
        "## Published decoding speeds",
        "",
        "Tokens a second; sources in the project's notes on target computers, and llama.cpp issue 26484 for the 0.5B on a",
        "Raspberry Pi 5. The constants for accelerators (share of the bus, time for each block) were chosen on the rows of",
        "accelerators; *left out* predicts each device with constants fitted to the other devices alone. The constants for",
        "CPUs were chosen on the rows marked ✓. Weights in 4 bits are taken to have 4.5 with their scales, the head too.",
        "",
        "| target | model | runtime | published | predicted | band | error | left out | error |",
        "|---|---|---|---:|---:|---:|---:|---:|---:|",
    )
    missed = []
    for row in PUBLISHED:
        predicted = 1 / decode_seconds(row)
        rates = rates_of(load_profile(row.target), row.processor)
        estimate = seconds(row.workload().decode(HEAD_LENGTH), rates)
        assert estimate is not None, row
        cells = [
            f"{predicted:.1f}",
            f"{1 / estimate.high:.0f}–{1 / estimate.low:.0f}",
            error(predicted, row.tokens_per_second),
        ]
        if row.processor == ACCELERATOR:
            others = [other for other in PUBLISHED if other.processor == ACCELERATOR and other.target != row.target]
            bus = load_profile(row.target).value("memory_gbps")
            left_out = 1 / seconds_with(row, bus, *best_constants(others))
            cells += [f"{left_out:.1f}", error(left_out, row.tokens_per_second)]
        else:
            cells += ["✓" if row.chosen_on else "–", "–"]
        head = [row.target, row.model, row.runtime, f"{row.tokens_per_second:g}"]
        yield f"| {' | '.join(head + cells)} |"
        if abs(predicted / row.tokens_per_second - 1) > AIM:
            missed.append(
                f"{row.target} with {row.model} ({predicted / row.tokens_per_second:.1f} times what was measured)"
            )
    yield ""
    yield f"Missed by more than {AIM:.0%}: {'; '.join(missed) or 'none'}."
    yield "The bus can't tell how good a runtime is: read predictions for an accelerator as what its memory would allow."
    yield ""


def decode_seconds(row: Published) -> float:
    """Predicted seconds a token."""
    estimate = seconds(row.workload().decode(HEAD_LENGTH), rates_of(load_profile(row.target), row.processor))
    assert estimate is not None, row
    return estimate.value


def seconds_with(row: Published, bus: float, share: float, block: float) -> float:
    """The same on an accelerator, by other constants: its part of the bus (GB/s) and the seconds of a block."""
    phase = row.workload().decode(HEAD_LENGTH)
    return phase.bytes / (share * bus * 1e9) + phase.blocks * block


def best_constants(rows: Sequence[Published]) -> tuple[float, float]:
    """The share of the bus and the seconds a block with the smallest median error of these rows."""
    known = [(row, load_profile(row.target).value("memory_gbps")) for row in rows]
    choices = product((share / 100 for share in range(30, 100, 5)), (micro * 1e-6 for micro in range(0, 420, 20)))
    return min(
        choices,
        key=lambda choice: median(
            abs(math.log(seconds_with(row, bus, *choice) * row.tokens_per_second)) for row, bus in known
        ),
    )


def error(predicted: float, measured: float) -> str:
    """Signed, relative to what was measured; bold beyond the aim."""
    relative = predicted / measured - 1
    return f"**{relative:+.0%}**" if abs(relative) > AIM else f"{relative:+.0%}"


if __name__ == "__main__":
    main()
