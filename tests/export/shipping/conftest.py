"""A finished run with an export to ship."""

import shutil
from pathlib import Path

import pytest
import yaml
from support.llava_models import make_checkpoint
from support.shipping import NAME, skd

from switchkd.export.folder import ExportRequest, run_export

RECIPE = {
    "name": "mine",
    "data": {"source": "files", "folder": "data", "sets": {
        name: {"file": f"{name}.json"} for name in ("talks", "captions", "text", "unused")
    }},
    "stages": {
        "pt": {"data": "captions", "distill": False}, "dft": {"data": "talks", "distill": True},
        "words": {"data": "text", "distill": False}, "other": {"data": "unused", "distill": False},
    },
    "parts": {"small": {"kind": "language", "language": "", "stages": ["words"]}},
    "student": {"checkpoint": "", "vision": "google/siglip", "language": "part:small", "stages": ["pt", "dft"], "baseline": ["pt"]},
    "teacher": {"checkpoint": "models/teacher-7b", "vision": "", "language": "", "stages": ["other"]},
}  # fmt: skip


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A finished run with an export, a recipe and data."""
    run = tmp_path_factory.mktemp("ship") / "runs" / "first"
    make_checkpoint(run / "student", seed=3)
    run_export(ExportRequest(run / "student", run / "exports" / NAME, format="onnx", quant="fp32", threads=1))
    (run / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    return run


@pytest.fixture
def run(finished, tmp_path, monkeypatch):
    """A copy of it in a working folder, and a key."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    copy = Path(shutil.copytree(finished, tmp_path / "runs" / "first"))
    (tmp_path / "runs" / "latest").symlink_to("first")
    (tmp_path / "data").mkdir()
    for name in ("talks", "captions", "unused"):
        (tmp_path / "data" / f"{name}.json").write_text(f"[{name!r}]")
    skd("key", "key")
    return copy
