"""What is made of the files that lmms-eval leaves; the real one runs in test_lmms.py."""

import json
import os
from pathlib import Path

from switchkd.runtime import benchmarks
from switchkd.runtime.benchmarks import PAPER, result_folders

BY_TITLE = {benchmark.title: benchmark for benchmark in PAPER}


def write(path: Path, value: object = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def test_an_older_runs_files_dont_count(tmp_path):
    """Neither its scores nor what it wrote to submit; but a file that is written again under its name does."""
    server = BY_TITLE["VQAv2"]
    old = write(tmp_path / "submissions/vqav2-test-submission-1.json")
    (tmp_path / "log.txt").write_text("")
    before = benchmarks._written(tmp_path)
    write(tmp_path / "x_results.json", {"results": {server.task: {}}})
    found = benchmarks._read(server, tmp_path, before, 0)
    assert found.submission is None and "no submission file" in found.failure
    os.utime(old, ns=(1, 1))
    assert benchmarks._read(server, tmp_path, before, 0).submission == old
    new = write(tmp_path / "submissions/vqav2-test-submission-2.json")
    assert benchmarks._read(server, tmp_path, before, 0).submission == new
    write(tmp_path / "submissions/other.json")
    assert benchmarks._read(server, tmp_path, before, 0).submission == new
    done = benchmarks._written(tmp_path)
    assert "without a result" in benchmarks._read(server, tmp_path, done, 0).failure


def test_models_of_one_name_have_folders_of_their_own(tmp_path):
    one, two, other = (tmp_path / name for name in ("a/student", "b/student", "b/other"))
    assert result_folders([one]) == {one: Path("student")}
    assert result_folders([one, other]) == {one: Path("student"), other: Path("other")}
    assert result_folders([one, two]) == {one: Path("a/student"), two: Path("b/student")}
    assert result_folders([Path("/student"), Path("/x/student")]) == {
        Path("/student"): Path("student"),
        Path("/x/student"): Path("x/student"),
    }
