"""Quantized builds tried against a proof: the best of a plan's candidates, and the first finer precision that would pass."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from switchkd.errors import SkdError
from switchkd.export.checkpoint import Checkpoint
from switchkd.export.exporter import Exporter
from switchkd.export.parts import Build, Plan, Quantization
from switchkd.export.proof import Loss, Proof
from switchkd.export.samples import Sample


@dataclass(frozen=True)
class Trial:
    """One quantized build and how far it is from its checkpoint."""

    build: Build
    loss: Loss

    @property
    def passes(self) -> bool:
        """Whether the loss is within what is allowed; NaN isn't."""
        return self.loss.share <= 1

    @property
    def size(self) -> int:
        """Bytes of all weights."""
        return sum(path.stat().st_size for path in (*self.build.files.values(), *self.build.data.values()))


@dataclass(frozen=True)
class Trials:
    """What every trial of an export needs."""

    exporter: Exporter
    checkpoint: Checkpoint
    proof: Proof
    calibration: Sequence[Sample]
    passages: Sequence[Sequence[int]]
    cache: Path  # a folder for what a later export can use again
    threads: int
    progress: Callable[[str], None]
    found: dict[str, Any] = field(default_factory=dict)  # see `Quantization`

    def run(self, plan: Plan, unquantized: Build, folder: Path) -> list[Trial]:
        """Every candidate of a plan, measured; the closest one first.

        Args:
            unquantized: the build that quantized ones are made from.
            folder: a new one, for the quantized files.
        """
        folder.mkdir()
        if plan.is_unquantized:
            return [self._try(plan, unquantized)]
        job = self._job(plan, unquantized, folder)
        trials = [self._try(plan, build) for build in self.exporter.candidates(job)]
        if not any(trial.passes for trial in trials):
            finer = replace(job, folder=folder / "finer")
            finer.folder.mkdir()
            trials += [self._try(plan, build) for build in self.exporter.reserve(finer)]
        return sorted(trials, key=lambda trial: trial.loss.share)

    def _try(self, plan: Plan, build: Build) -> Trial:
        self.progress(" ".join(["measuring", plan.quant, build.note]).strip())
        with self.exporter.open(self.checkpoint, build, threads=self.threads) as engine:
            return Trial(build, self.proof.measure(engine, plan.max_divergence))

    def advise(self, failed: Trial, plan: Plan, vision_quant: str | None, unquantized: Build, folder: Path) -> str:
        """What a person can do about a build that drifts too far: the next finer precisions are tried until one passes.

        Args:
            vision_quant: as it was asked for.
            unquantized: the build that the failed one was made from.
            folder: takes what is made meanwhile.
        """
        where = failed.loss.worst
        verdict = failed.loss.judged[where]
        said = (
            f"Quantized to {plan.quant}, the export drifts too far from its checkpoint: mean KL {verdict.kl_mean:.2g} "
            f"nats on {where}, allowed {verdict.allowed:.2g}"
        )
        for quant, finer in self._finer(plan, vision_quant):
            self.progress(f"{plan.quant} drifts too far; trying {quant}")
            work = folder / quant
            work.mkdir(parents=True)
            same = finer.unquantized == plan.unquantized
            source = unquantized if same else self.exporter.write(self.checkpoint, finer, work)
            best = self.run(finer, source, work / "quantized")[0]
            if best.passes:
                now = best.loss.judged[where].kl_mean
                return (
                    f"{said}. Take --quant {quant}, which was tried: {now:.2g} nats, {best.size / 1e6:.1f} MB "
                    f"of weights instead of {failed.size / 1e6:.1f}."
                )
            shutil.rmtree(work)
        return f"{said}, and so does every finer one with the vision part in {plan.vision_quant}; take a finer --vision-quant."

    def _finer(self, plan: Plan, vision_quant: str | None) -> Iterator[tuple[str, Plan]]:
        """Precisions that this checkpoint can have beyond a plan's, each once, the next finer first."""
        seen: list[str] = []
        for quant in self.exporter.quants:
            try:
                finer = self.exporter.plan(self.checkpoint, quant, vision_quant)
            except SkdError:  # its shape doesn't allow it
                continue
            if finer.quant != quant and finer.quant in self.exporter.quants:
                continue  # it comes under its own name
            if plan.quant in seen and finer.quant not in seen:
                yield quant, finer
            seen.append(finer.quant)

    def _job(self, plan: Plan, unquantized: Build, folder: Path) -> Quantization:
        return Quantization(
            self.checkpoint,
            plan,
            unquantized,
            self.exporter.parts(self.checkpoint, unquantized),
            folder,
            calibration=self.calibration,
            passages=self.passages,
            cache=self.cache,
            threads=self.threads,
            found=self.found,
        )
