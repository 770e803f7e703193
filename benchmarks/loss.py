"""What DBiLD costs: time and peak memory of forward and backward against plain KL and against explicit pairs.

    python benchmarks/loss.py --out docs/results/loss.md

Logits are made, shaped like a language model's: a Gaussian bulk (σ 2.2 for the teacher, 2.0 for the student,
correlation 0.8) over the whole vocabulary, and twenty tokens a position that stand out by 8 to 18, noisy by 1 for the
teacher and 1.5 for the student. The knees that this gives are printed beside the figures.

Times are medians over rounds in which the variants take turns, and waiting threads sleep instead of spinning
(OMP_WAIT_POLICY=passive): on a shared machine a spinning thread holds up the one that it waits for. Memory is the
growth of the resident set's high-water mark (VmHWM, Linux) over a forward and backward in a process of its own,
without the logits themselves, with the student's gradient.
"""

import argparse
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from switchkd.losses.dbild import dbild
from switchkd.losses.divergences import forward_kl
from switchkd.runtime.computer.local import processor_name

TEMPERATURE = 3.0
# Arrays over all pairs alive at the peak of forward and backward, both branches, float32.
PAIR_ARRAYS = 8

Loss = Callable[[Tensor, Tensor], Tensor]  # teacher, student [A, N] -> [A]


def explicit_pairs(teacher: Tensor, student: Tensor, k: int) -> Tensor:
    """DBiLD at a fixed k as it is written in the paper: every pair's difference, softmax and KL by autograd."""
    first, second = torch.triu_indices(k, k, offset=1)

    def branch(leader: Tensor) -> Tensor:
        tokens = leader.detach().topk(k, dim=1).indices
        log_p, log_q = (
            ((led[:, first] - led[:, second]) / TEMPERATURE).log_softmax(1)  # [A, k(k-1)/2]
            for led in (student.gather(1, tokens), teacher.gather(1, tokens))
        )
        return (log_p.exp() * (log_p - log_q)).sum(1)

    return branch(teacher) + branch(student)


def plain_kl(teacher: Tensor, student: Tensor) -> Tensor:
    """Forward KL as one writes it down, over all logits at once."""
    log_teacher, log_student = ((logits / TEMPERATURE).log_softmax(1) for logits in (teacher, student))
    return (log_teacher.exp() * (log_teacher - log_student)).sum(1)


def variants(k: int) -> dict[str, Loss]:
    """The losses compared, by the name that the table shows."""
    return {
        "plain KL over the vocabulary": plain_kl,
        "the same, a few rows at a time": lambda t, s: forward_kl(t, s, temperature=TEMPERATURE),
        "DBiLD, knee over the vocabulary": lambda t, s: dbild(t, s, temperature=TEMPERATURE).loss,
        f"DBiLD, fixed k = {k:,}": lambda t, s: dbild(t, s, temperature=TEMPERATURE, k=k).loss,
        f"explicit pairs, k = {k:,}": lambda t, s: explicit_pairs(t, s, k),
    }


def shaped_logits(positions: int, tokens: int) -> tuple[Tensor, Tensor]:
    """Teacher and student logits as the module's text says, [A, N] float32."""
    random = torch.Generator().manual_seed(0)
    teacher = torch.randn(positions, tokens, generator=random)
    student = (0.8 * teacher).add_(torch.randn(positions, tokens, generator=random), alpha=0.6).mul_(2.0)
    teacher.mul_(2.2)
    heights = torch.linspace(18, 8, 20)
    for row in range(positions):
        leading = torch.randperm(tokens, generator=random)[:20]
        teacher[row, leading] = heights + torch.randn(20, generator=random)
        student[row, leading] = heights + 1.5 * torch.randn(20, generator=random)
    return teacher, student.requires_grad_()


def step(loss: Loss, teacher: Tensor, student: Tensor) -> None:
    """One forward and backward."""
    student.grad = None
    loss(teacher, student).mean().backward()


def resident_kib(field: str) -> int:
    """VmRSS or VmHWM of this process in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])


def peak_mib(name: str, k: int, positions: int, tokens: int) -> float:
    """Memory that one step of a variant adds, in MiB; to be called in a fresh process."""
    teacher, student = shaped_logits(positions, tokens)
    loss = variants(k)[name]
    small = 2 * k
    step(loss, teacher[:1, :small], student.detach()[:1, :small].requires_grad_())  # thread pools and code pages
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again from here
    before = resident_kib("VmRSS")
    step(loss, teacher, student)
    return (resident_kib("VmHWM") - before) / 1024


def median_times(k: int, positions: int, tokens: int, rounds: int) -> dict[str, Any]:
    """Medians over rounds in which all variants take turns, and the knees of the logits.

    `wall` and `cpu` are seconds (the latter of all threads together), `wall_ratio` and `cpu_ratio` medians of each
    round's ratio to the first variant.
    """
    losses = variants(k)
    teacher, student = shaped_logits(positions, tokens)
    clocks = {"wall": time.perf_counter, "cpu": time.process_time}
    seconds: dict[str, dict[str, list[float]]] = {clock: {name: [] for name in losses} for clock in clocks}
    for turn in range(rounds + 1):
        for name, loss in losses.items():
            start = {clock: now() for clock, now in clocks.items()}
            step(loss, teacher, student)
            if turn:  # the first round warms up
                for clock, now in clocks.items():
                    seconds[clock][name].append(now() - start[clock])
    found: Any = dbild(teacher, student.detach(), temperature=TEMPERATURE)
    figures: dict[str, Any] = {"knees": torch.cat([found.k_teacher, found.k_student]).tolist()}
    for clock, of_variants in seconds.items():
        base = next(iter(of_variants.values()))
        figures[clock] = {name: statistics.median(values) for name, values in of_variants.items()}
        figures[f"{clock}_ratio"] = {
            name: statistics.median(mine / plain for mine, plain in zip(values, base, strict=True))
            for name, values in of_variants.items()
        }
    return figures


def measured(options: argparse.Namespace, k: int, *what: str) -> Any:
    """The answer of a fresh process to `what`."""
    child = [sys.executable, __file__, *what, "--k", str(k), "--threads", str(options.threads)]
    child += ["--positions", str(options.positions), "--tokens", str(options.tokens), "--rounds", str(options.rounds)]
    environment = os.environ | {"OMP_WAIT_POLICY": "passive"}
    return json.loads(subprocess.run(child, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout)


def report(options: argparse.Namespace) -> str:
    """The measurements as Markdown."""
    pairs = options.limit_gb * 1e9 / (4 * PAIR_ARRAYS * options.positions)
    k = int((2 * pairs) ** 0.5)
    losses = variants(k)
    memory = {name: measured(options, k, "--memory-of", name) for name in losses}
    figures = measured(options, k, "--times")

    _, _, full, _, explicit = losses
    knees = torch.tensor(figures["knees"], dtype=torch.float64)
    per_pair = memory[explicit] / (k * (k - 1) / 2)
    needed = per_pair * (knees * (knees - 1) / 2).sum().item() / 2 / options.positions / 1024
    rows = [
        f"| {name} | {figures['wall'][name] * 1e3:,.0f} | {figures['wall_ratio'][name]:.2f} "
        f"| {figures['cpu'][name] * 1e3:,.0f} | {figures['cpu_ratio'][name]:.2f} | {memory[name]:,.0f} |"
        for name in losses
    ]
    return "\n".join(
        [
            "# The loss: what it costs",
            "",
            f"Forward and backward at {options.positions} positions of {options.tokens:,} tokens, float32 logits "
            "shaped like a language model's",
            "(a Gaussian bulk and twenty leading tokens; `benchmarks/loss.py` says exactly how). The knees fall at "
            f"k = {int(knees.min()):,} … {int(knees.max()):,}, mean {knees.mean():,.0f}.",
            "",
            "| loss | wall ms | × plain KL | CPU ms | × plain KL | peak MiB beyond the logits |",
            "|---|---:|---:|---:|---:|---:|",
            *rows,
            "",
            f"Explicit pairs at k = {k:,} are what about {options.limit_gb:g} GB allow. At this batch's knees "
            f"they would take about {needed:,.0f} GiB; DBiLD takes {memory[full]:,.0f} MiB.",
            "",
            f"- CPU: {processor_name()}, {options.threads} threads",
            f"- Versions: Python {platform.python_version()}, torch {torch.__version__}",
            f"- Method: {options.rounds} rounds in which the variants take turns, after one to warm up; medians, "
            "the ratios those of the rounds; OMP_WAIT_POLICY=passive. CPU time is that of all threads: other "
            "programs on the machine stretch it less than wall time. "
            "Memory: growth of VmHWM in a process per variant, the student's gradient included.",
            f"- Command: `python benchmarks/loss.py {shlex.join(options.command)}`",
            "",
        ]
    )


def main(command: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--positions", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=151_936)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit-gb", type=float, default=2.0, help="memory that explicit pairs may take")
    parser.add_argument("--out", type=Path, help="write the table to this Markdown file as well")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    parser.add_argument("--times", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--k", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(command, argparse.Namespace(command=command))
    torch.set_num_threads(options.threads)
    size = (options.k, options.positions, options.tokens)
    if options.memory_of:
        print(json.dumps(peak_mib(options.memory_of, *size)))
        return
    if options.times:
        print(json.dumps(median_times(*size, options.rounds)))
        return
    text = report(options)
    print(text)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
