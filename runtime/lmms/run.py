"""One benchmark with one model, in a process of its own; and what is read from the files that lmms-eval leaves."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from switchkd.errors import SkdError
from switchkd.files import file_sha256, folder_sha256, write_text
from switchkd.manifest import FILE_NAME
from switchkd.runtime.lmms.benchmarks import LMMS_EVAL, TASKS, Benchmark

_LOG, _COUNTS, _DONE = "log.txt", "counts.json", "result.json"
_PLAIN = re.compile(r"[\w./-]+")  # what lmms-eval's parsers of settings leave as it is


@dataclass(frozen=True)
class Result:
    """What came of one benchmark with one model."""

    score: float | None = None  # on the paper's scale
    submission: Path | None = None  # the file that lmms-eval wrote for a server
    failure: str = ""  # one line; "" where it went well
    unanswered: int = 0  # questions that the model couldn't take; they count as wrong
    joined: int = 0  # questions whose pictures were put side by side as one
    too_few: bool = False  # a limit left no questions that a score could be made of

    def to_json(self) -> dict[str, Any]:
        """Plain objects for json.dumps."""
        file = None if self.submission is None else str(self.submission)
        counts = {"unanswered": self.unanswered, "joined": self.joined, "too_few": self.too_few}
        return {"score": self.score, "submission": file, "failure": self.failure or None, **counts}


def model_sha256(variant: Path) -> str:
    """What tells a model from its earlier self: the hash of an export's manifest, which has its files', or of a checkpoint."""
    manifest = variant / FILE_NAME
    return file_sha256(manifest) if manifest.exists() else folder_sha256(variant)


@dataclass(frozen=True)
class Job:
    """A benchmark to be run with a model.

    Args:
        variant: an export or a checkpoint.
        model: its `model_sha256`.
        out: folder for lmms-eval's results, submission file and messages (log.txt).
        limit: only the first so many questions, for trying it out; rounded up to whole groups.
        download: let it fetch data that isn't there.
    """

    benchmark: Benchmark
    variant: Path
    model: str
    out: Path
    threads: int | None = None
    limit: int | None = None
    download: bool = False

    def kept(self) -> Result | None:
        """The result of an earlier run of the same model and limit, where there is one."""
        try:
            done = json.loads((self.out / _DONE).read_text(encoding="utf-8"))
            if done.pop("of") != self._identity():
                return None
            submission = done.pop("submission")
            result = Result(submission=self.out / submission if submission else None, **done)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None  # none, or one that another version wrote
        return result if result.submission is None or result.submission.is_file() else None

    def run(self) -> Result:
        """Runs it; a result that went well is kept in `out`.

        Raises:
            SkdError: `out` or the folder for temporary files can't be used.
        """
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            for name in (_DONE, _COUNTS):
                (self.out / name).unlink(missing_ok=True)
        except OSError as error:
            raise SkdError(f"{self.out} can't be written: {error.strerror or error}.") from error
        before = _written(self.out)
        with _plain_links({"student": self.variant, "out": self.out}) as links:
            status = self._run(links)
        result = _read(self.benchmark, self.out, before, status, limited=self.limit is not None)
        if not result.failure:
            file = result.submission and str(result.submission.relative_to(self.out))
            done = result.to_json() | {"submission": file, "failure": "", "of": self._identity()}
            write_text(self.out / _DONE, json.dumps(done, indent=1) + "\n")
        return result

    def _run(self, links: Mapping[str, Path]) -> int:
        """lmms-eval's exit status; what it prints goes to the log, with the folders by their own names."""
        settings = {"variant": links["student"], "counts": links["out"] / _COUNTS, "threads": self.threads}
        model_args = ",".join(f"{name}={value}" for name, value in settings.items() if value is not None)
        command = [sys.executable, "-m", "lmms_eval", "--model", "skd", "--model_args", model_args]
        command += ["--tasks", self.benchmark.task, "--include_path", str(TASKS)]
        command += ["--output_path", str(links["out"]), "--log_samples", "--batch_size", "1"]
        command += ["--limit", str(limit)] if (limit := self._whole_limit()) else []
        offline = {} if self.download else {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
        log = self.out / _LOG
        with log.open("w", encoding="utf-8") as stream:
            status = subprocess.run(command, stdout=stream, stderr=subprocess.STDOUT, env=os.environ | offline)
        text = log.read_text(encoding="utf-8", errors="replace")
        write_text(
            log, text.replace(str(links["student"]), str(self.variant)).replace(str(links["out"]), str(self.out))
        )
        return status.returncode

    def _whole_limit(self) -> int | None:
        group = self.benchmark.group
        return None if self.limit is None else -(-self.limit // group) * group

    def _identity(self) -> dict[str, Any]:
        """What a kept result has to agree in."""
        return {
            "task": self.benchmark.task,
            "model": self.model,
            "limit": self._whole_limit(),
            "lmms_eval": LMMS_EVAL,
        }


@contextmanager
def _plain_links(folders: Mapping[str, Path]) -> Iterator[dict[str, Path]]:
    """Links to folders whose paths lmms-eval's settings can hold, which commas, quotes and brackets would break."""
    with tempfile.TemporaryDirectory(prefix="skd-") as place:
        if not _PLAIN.fullmatch(place):
            raise SkdError(f"lmms-eval can't take a path like {place}; set TMPDIR to a folder with a plain name.")
        links = {name: Path(place) / name for name in folders}
        for name, link in links.items():
            link.symlink_to(folders[name].resolve(), target_is_directory=True)
        yield links


def _written(out: Path) -> dict[Path, int]:
    """Files under a folder and when each was written."""
    return {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}


def _read(benchmark: Benchmark, out: Path, before: Mapping[Path, int], status: int, *, limited: bool = False) -> Result:
    """What lmms-eval wrote; it ends with status 0 even where it failed, but then without results.

    Args:
        before: `_written` when it began. An older run's files don't count, but some are written again under the same name.
        limited: only a few questions were asked, so that a metric may be missing.
    """
    now = _written(out)
    new = sorted((path for path in now if now[path] != before.get(path)), key=now.__getitem__)
    submissions = out / "submissions"
    results = [path for path in new if path.name.endswith("_results.json") and submissions not in path.parents]
    files = [path for path in new if path.parent == submissions and fnmatch(path.name, benchmark.file)]
    submission = files[-1] if files else None
    if status or not results:
        return Result(failure=f"lmms-eval ended without a result ({_last_error(out / _LOG)}); see {out / _LOG}")
    counts = _read_counts(out / _COUNTS)
    scores: dict[str, Any] = json.loads(results[-1].read_text(encoding="utf-8"))["results"][benchmark.task]
    if not benchmark.metric:
        missing = "" if submission else f"lmms-eval wrote no submission file; see {out / _LOG}"
        return Result(submission=submission, failure=missing, **counts)
    score = next((value for name, value in scores.items() if name.partition(",")[0] == benchmark.metric), None)
    if isinstance(score, int | float) and math.isfinite(score):
        return Result(score * benchmark.scale, submission, **counts)
    if limited:
        return Result(submission=submission, too_few=True, **counts)
    return Result(submission=submission, failure=f"lmms-eval gave no {benchmark.metric}; see {out / _LOG}", **counts)


def _read_counts(path: Path) -> dict[str, Any]:
    """What the model told of its questions: see `lmms_model.ExportedStudent`."""
    counts = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return {name: counts.get(name, 0) for name in ("unanswered", "joined")}


def _last_error(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line]
    return (errors or lines or ["it printed nothing"])[-1][-200:]
