"""Hybrid: tower and projector as ONNX, the language model as GGUF; each part where it runs faster."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

from switchkd.export.checkpoint import Checkpoint
from switchkd.export.exporter import Build, Contract, Plan, Quantization, engine_of
from switchkd.export.gguf import exporter as gguf_exporter
from switchkd.export.gguf import quantize as gguf_quantize
from switchkd.export.gguf.exporter import LANGUAGE_FILE, LANGUAGE_QUANTS
from switchkd.export.onnx import exporter as onnx_exporter
from switchkd.export.onnx import graph as onnx_graph
from switchkd.export.onnx.exporter import VISION_QUANTS, build_of, convert, onnx_file, vision_file
from switchkd.export.onnx.vision import write_vision
from switchkd.manifest import TensorCount
from switchkd.runtime.engines.engine import Engine
from switchkd.runtime.engines.llama.engine import is_rearranged, load_language
from switchkd.runtime.engines.llama.library import Observer
from switchkd.runtime.engines.onnx.engine import OnnxVision


class HybridExporter:
    """See `Exporter`. Precisions are named as their format names them."""

    quants: Sequence[str] = LANGUAGE_QUANTS
    vision_quants: Sequence[str] = VISION_QUANTS
    calibrates = gguf_exporter.EXPORTER.calibrates

    def plan(self, checkpoint: Checkpoint, quant: str, vision_quant: str | None) -> Plan:
        """See `Exporter.plan`."""
        quant = gguf_exporter.plan_language(checkpoint, quant)
        checkpoint.check_complete()
        vision_quant = onnx_exporter.plan_vision(vision_quant or "q8")
        plain = {"language": gguf_exporter.plain_precision(quant), "vision": "fp32"}
        side = checkpoint.vision["image_size"]
        inputs: dict[str, tuple[int | str, ...]] = {
            "pixel_values": ("batch_size", 3, side, side),
            "input_ids": ("tokens",),
            "embeddings": ("image_tokens", checkpoint.text["hidden_size"]),
        }
        files = {"language": LANGUAGE_FILE, "vision": onnx_file("vision", vision_quant)}
        tolerance = {**onnx_exporter.TOLERANCE, "logits": gguf_exporter.TOLERANCE[plain["language"]]["logits"]}
        limit = max(gguf_exporter.MAX_DIVERGENCE[quant], onnx_exporter.MAX_DIVERGENCE[vision_quant])
        return Plan(quant, vision_quant, plain, Contract(inputs, files, tolerance, limit))

    def write(self, checkpoint: Checkpoint, plan: Plan, folder: Path) -> Build:
        """See `Exporter.write`."""
        files = {"language": folder / LANGUAGE_FILE, "vision": folder / Path(onnx_file("vision", "fp32")).name}
        gguf_exporter.write_checked_language(checkpoint, files["language"], plan.plain["language"])
        write_vision(checkpoint, files["vision"])
        return build_of(files, plan.plain)

    def candidates(self, job: Quantization) -> Iterator[Build]:
        """See `Exporter.candidates`: those of GGUF's language file, with one vision file."""
        vision = job.folder / Path(job.plan.contract.files["vision"]).name
        convert(job, "vision", vision, job.plan.vision_quant)

        def observed(observe: Observer) -> Engine:
            return self._open(job.checkpoint, job.plain, job.threads, observe=observe)

        for language, note in gguf_exporter.language_candidates(job, observed):
            precision = {"language": job.plan.quant, "vision": job.plan.vision_quant}
            yield build_of({"language": language, "vision": vision}, precision, note)

    def open(self, checkpoint: Checkpoint, build: Build, *, threads: int, traced: bool) -> Engine:
        """See `Exporter.open`."""
        return self._open(checkpoint, build, threads, traced=traced)

    def tensor_types(self, file: Path) -> dict[str, TensorCount]:
        """See `Exporter.tensor_types`."""
        return (onnx_graph if file.suffix == ".onnx" else gguf_quantize).tensor_types(file)

    def tools(self) -> dict[str, str]:
        """See `Exporter.tools`."""
        return {name: version(name) for name in onnx_exporter.VISION_TOOLS} | gguf_exporter.EXPORTER.tools()

    def _open(
        self,
        checkpoint: Checkpoint,
        build: Build,
        threads: int,
        *,
        traced: bool = False,
        observe: Observer | None = None,
    ) -> Engine:
        vision = OnnxVision(vision_file(build, traced=traced), checkpoint.preprocess, threads=threads)
        language = load_language(
            build.files["language"],
            checkpoint.prompt.image_token_id,
            threads=threads,
            mapped=not is_rearranged(gguf_quantize.tensor_types(build.files["language"])),
            exact=build.precision["language"] == "f32",
            observe=observe,
        )
        return engine_of(checkpoint, vision, language)


EXPORTER = HybridExporter()
