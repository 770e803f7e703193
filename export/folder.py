"""From a request to a finished export folder: write, prove, quantize, describe, move into place."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

import switchkd
from switchkd.architecture.endings import end_token_ids
from switchkd.chat_template import inference_template
from switchkd.disk import require_replaceable
from switchkd.errors import SkdError
from switchkd.export.checkpoint import Checkpoint
from switchkd.export.companions import copy_companions
from switchkd.export.exporter import exporter_for
from switchkd.export.parity import ANSWER_TOKENS, ParityError, Reference, check_stages
from switchkd.export.parts import Build
from switchkd.export.proof import Proof
from switchkd.export.samples import Sample
from switchkd.export.trials import Trials
from switchkd.files import file_sha256, replacing_folder
from switchkd.manifest import FILE_NAME, FileEntry, ImageTokens, Manifest, Origin
from switchkd.passages import CALIBRATION, passages
from switchkd.runs import trained_pictures
from switchkd.runtime.engines.interfaces import DEFAULT_CONTEXT
from switchkd.runtime.engines.opening import usable_processors


@dataclass(frozen=True)
class ExportRequest:
    """What to export, into what."""

    checkpoint: Path  # a LLaVA model folder
    out: Path  # the export folder
    format: str = "gguf"
    quant: str = "q4"
    vision_quant: str | None = None  # None: the format's default
    calibration: Sequence[Sample] = field(default_factory=tuple)  # conversations to quantize by
    held_out: Sequence[Sample] = field(default_factory=tuple)  # questions to measure on; empty: made-up pictures
    force: bool = False  # replace an existing folder
    threads: int | None = None  # None: all processors


def run_export(request: ExportRequest, progress: Callable[[str], None] = lambda _: None) -> Manifest:
    """Makes an export folder, whole or not at all.

    Args:
        progress: told what is being done.

    Raises:
        CheckpointError: a checkpoint that is damaged or of an unsupported kind; nothing was written then.
        ParityError: the export differs from its checkpoint.
        SkdError: the folder exists, or can't be written; a package is missing.
    """
    job = _Export(request, progress)
    out = request.out.resolve()
    _check_target(out, request)
    with _alone(out), replacing_folder(out, replace=request.force) as folder:
        return job.fill(folder)


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """One export at a time into a folder. Raises SkdError where another is at work: it would lose its work, or this one."""
    lock = FileLock(out.with_name(f".{out.name}.lock"), timeout=0)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise SkdError(f"Another export into {out} is at work: wait for it, or choose another --out.") from error
    except OSError as error:
        raise SkdError(f"{out} can't be written: {error.strerror or error}.") from error
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)  # still held: whoever opened it meanwhile is refused
        lock.release()


def _check_target(out: Path, request: ExportRequest) -> None:
    """Raises SkdError unless the export may be put there: nothing but an older export is ever replaced."""
    if request.checkpoint.resolve().is_relative_to(out):
        raise SkdError(f"{request.out} holds the checkpoint itself; choose another --out.")
    require_replaceable(out)
    if not out.exists():
        return
    if not request.force:
        raise SkdError(f"{request.out} is already there; replace it with --force or choose another --out.")
    if not out.is_dir() or (any(out.iterdir()) and not (out / FILE_NAME).exists()):
        raise SkdError(
            f"{request.out} is no export (it has no {FILE_NAME}), so --force doesn't replace it; choose another --out."
        )


class _Export:
    """One export under way; making it checks that it can be done."""

    def __init__(self, request: ExportRequest, progress: Callable[[str], None]) -> None:
        self._request, self._progress = request, progress
        self._checkpoint = Checkpoint(request.checkpoint)
        self._exporter = exporter_for(request.format)
        self._plan = self._exporter.plan(self._checkpoint, request.quant, request.vision_quant)
        if request.calibration and self._plan.quant not in self._exporter.calibrates:
            raise SkdError(
                f"Nothing in {request.format} {self._plan.quant} is quantized by data; leave --calibrate out."
            )
        self._calibration = self._fitting(request.calibration)
        self._threads = request.threads or usable_processors()

    def fill(self, folder: Path) -> Manifest:
        """Makes everything in an empty folder."""
        self._progress("running the checkpoint in PyTorch")
        samples = self._fitting(self._request.held_out, ANSWER_TOKENS)
        work = folder / "work"
        (work / "text").mkdir(parents=True)
        proof = Proof(self._checkpoint, samples, work / "text", threads=self._threads)
        unquantized, stages = self._write_unquantized(work / "unquantized", proof.references)
        build, losses = self._quantize(unquantized, work, proof)
        self._progress("hashing")
        for role, name in self._plan.files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            build.files[role].rename(folder / name)
            if role in build.data:
                build.data[role].rename((folder / name).with_name(build.data[role].name))
        shutil.rmtree(work)
        copy_companions(self._checkpoint.folder, folder)
        left_out = {
            "too_long": len(self._request.held_out) - len(samples),
            "calibration_too_long": len(self._request.calibration) - len(self._calibration),
        }
        parity = {"probes": len(proof.references), **left_out, "stages": stages, **losses}
        manifest = self._describe(folder, parity)
        manifest.save(folder)
        return manifest

    def _fitting(self, samples: Sequence[Sample], room: int = 0) -> list[Sample]:
        """Those that fit the context with `room` more tokens; asked for an answer where there is room for one."""
        checkpoint = self._checkpoint
        longest = min(DEFAULT_CONTEXT, checkpoint.text["max_position_embeddings"]) - room

        def length(sample: Sample) -> int:
            asks, tokens = bool(room), checkpoint.image_tokens
            return len(checkpoint.prompt.encode(sample.messages, image_tokens=tokens, add_generation_prompt=asks).ids)

        return [sample for sample in samples if length(sample) <= longest]

    def _write_unquantized(self, folder: Path, references: Sequence[Reference]) -> tuple[Build, dict[str, Any]]:
        """The unquantized build, and its errors stage by stage."""
        folder.mkdir(parents=True)
        self._progress("writing " + " and ".join(sorted(set(self._plan.unquantized.values()))))
        build = self._exporter.write(self._checkpoint, self._plan, folder)
        self._progress("comparing it stage by stage")
        with self._exporter.open(self._checkpoint, build, threads=self._threads, traced=True) as engine:
            stages = check_stages(engine, references, self._plan.tolerance)
        return build, {"precision": dict(self._plan.unquantized), **stages}

    def _quantize(self, unquantized: Build, work: Path, proof: Proof) -> tuple[Build, dict[str, Any]]:
        """The build that is closest to the checkpoint, and the losses of all that were tried."""
        self._progress(f"quantizing to {self._plan.quant}")
        checkpoint, request = self._checkpoint, self._request
        context = min(DEFAULT_CONTEXT, checkpoint.text["max_position_embeddings"])
        trials = Trials(
            self._exporter,
            checkpoint,
            proof,
            calibration=self._calibration,
            passages=passages(checkpoint.prompt, CALIBRATION, context=context),
            cache=request.out.parent,
            threads=self._threads,
            progress=self._progress,
        )
        tried = trials.run(self._plan, unquantized, work / "quantized")
        best = tried[0]
        if not best.passes:
            raise ParityError(trials.advise(best, self._plan, request.vision_quant, unquantized, work / "finer"))
        return best.build, {
            "loss": best.loss.pictures,
            "text": best.loss.text,
            "judged": {name: asdict(verdict) for name, verdict in best.loss.judged.items()},
            "candidates": {
                trial.build.note: {name: verdict.kl_mean for name, verdict in trial.loss.judged.items()}
                for trial in tried
            },
            "chosen": best.build.note,
        }

    def _describe(self, folder: Path, parity: dict[str, Any]) -> Manifest:
        checkpoint, plan = self._checkpoint, self._plan
        roles = {name: role for role, name in plan.files.items()}
        files = {
            (name := path.relative_to(folder).as_posix()): FileEntry(
                role=roles.get(name, ""),
                bytes=path.stat().st_size,
                sha256=file_sha256(path),
                tensor_types=self._exporter.tensor_types(roles[name], path) if name in roles else {},
            )
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        prompt = checkpoint.prompt
        return Manifest(
            format=self._request.format,
            quant=plan.quant,
            vision_quant=plan.vision_quant,
            source=Origin(checkpoint.folder.resolve().name, checkpoint.sha256),
            tools={"skd": switchkd.__version__, **self._exporter.tools()},
            files=files,
            image=ImageTokens(checkpoint.image_tokens, prompt.image_token, prompt.image_token_id),
            prompt_template=inference_template(prompt.template),
            end_tokens=sorted(end_token_ids(checkpoint.folder, prompt)),
            context=checkpoint.text["max_position_embeddings"],
            parity=parity,
            pictures=trained_pictures(checkpoint.folder),
        )
