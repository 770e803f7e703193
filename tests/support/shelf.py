"""Small checkpoints and their exports, each made once for all processes that run the tests. Who changes one copies it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any
from unittest.mock import patch

from filelock import FileLock

from support.llava_models import make_checkpoint


class Shelf:
    """What lies in one folder, which other processes fill too."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(exist_ok=True)

    def once(self, name: str, make: Callable[[Path], object]) -> Path:
        """The folder of this name; `make` fills it, in the first process that asks."""
        target = self._folder / name
        with FileLock(self._folder / f"{name}.lock"):
            if not target.exists():
                making = self._folder / f"making-{name}"
                make(making)
                making.rename(target)
        return target

    def checkpoint(self, *, outliers: bool = False, **settings: Any) -> Path:
        """What `make_checkpoint` makes of these settings, with a real model's outliers or without."""
        if not outliers:
            return self.once(f"student-{_key(settings)}", lambda folder: make_checkpoint(folder, **settings))
        from support.outliers import with_outliers

        usual = self.checkpoint(**settings)
        return self.once(f"outliers-{_key(settings)}", lambda folder: with_outliers(usual, folder))

    def export(self, format: str, quant: str, *, vision_quant: str | None = None, **checkpoint_settings: Any) -> Path:
        """An export of that checkpoint."""
        from switchkd.export.folder import ExportRequest, run_export

        checkpoint = self.checkpoint(**checkpoint_settings)
        wanted = {"format": format, "quant": quant, "vision_quant": vision_quant}

        def make(folder: Path) -> None:
            run_export(ExportRequest(checkpoint, folder, threads=1, **wanted))

        name = f"{format}-{quant}-{vision_quant or 'usual'}-{_key(checkpoint_settings)}"
        if format != "onnx" or quant == "fp32":
            return self.once(name, make)
        plain = self.export("onnx", "fp32", **checkpoint_settings)
        with written_once(plain):
            return self.once(name, make)


@contextmanager
def written_once(plain: Path) -> Iterator[None]:
    """ONNX exports of the same checkpoint start from the float32 graphs of `plain`, which take ten seconds to write."""
    import onnx_ir

    from switchkd.export.onnx import graph as onnx_graph
    from switchkd.export.onnx import parts as onnx_parts

    def copy(name: str) -> Callable[[Any, Path], None]:
        return lambda _, path: onnx_graph.save_graph(onnx_ir.load(plain / "onnx" / f"{name}.onnx"), path)

    with (
        patch.object(onnx_parts, "write_vision", copy("vision_encoder")),
        patch.object(onnx_parts, "write_decoder", copy("decoder_model_merged")),
    ):
        yield


def _key(settings: dict[str, Any]) -> str:
    return sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
