"""From a folder to a running engine: an export by its manifest, a checkpoint by PyTorch."""

from __future__ import annotations

import time
from pathlib import Path

from switchkd.architecture.endings import end_token_ids
from switchkd.architecture.references import is_reference, resolve_checkpoint
from switchkd.architecture.weights import refuse_other_kinds
from switchkd.computer import usable_processors
from switchkd.errors import SkdError
from switchkd.manifest import FILE_NAME, Manifest
from switchkd.preprocess import Preprocess
from switchkd.prompt import ChatPrompt
from switchkd.runs import RUNS
from switchkd.runtime.engines.engine import CPU, DEFAULT_CONTEXT, Engine, LanguageModel, VisionEncoder

_EXPORTS = RUNS / "latest" / "exports"


def find_variant(name: str | Path, exports: Path = _EXPORTS) -> Path:
    """The folder of a variant: a path, a name among a run's exports, or a checkpoint's `asset:NAME` or name on the hub.

    Args:
        name: what a person typed.
        exports: the run's folder of exports; by default the newest run's.

    Raises:
        SkdError: there is none of these.
    """
    for folder in (Path(name).expanduser(), exports / name):
        if folder.is_dir():
            return folder
    if is_reference(name):
        return resolve_checkpoint(name)
    known = sorted(path.name for path in exports.glob("*") if (path / FILE_NAME).exists())
    whose = "the newest run" if exports == _EXPORTS else f"the run {exports.parent}"
    there = f"{whose} has {', '.join(known)}" if known else f"{exports} has none; make one with `skd export`"
    raise SkdError(f"There is no variant {name}: give a folder or a name; {there}.")


def open_engine(
    variant: str | Path,
    *,
    threads: int | None = None,
    context: int = DEFAULT_CONTEXT,
    verify: bool = True,
    traced: bool = False,
    device: str = CPU,
) -> Engine:
    """An engine for an export folder (by its manifest) or a checkpoint folder (by PyTorch).

    Args:
        variant: see `find_variant`.
        threads: processor threads; by default as many as this process may use.
        context: most tokens of a prompt and its answer together.
        verify: compare every exported file with its hash first.
        traced: keep the stages of the vision part visible (`engine.vision.trace`).
        device: for ONNX exports, one of `onnx_session.devices`; the others run on the processor.

    Raises:
        SkdError: the folder is neither, is damaged, or needs a package that isn't installed.
    """
    folder = find_variant(variant)
    threads = threads or usable_processors()
    start = time.perf_counter()
    if (folder / FILE_NAME).exists():
        engine = _open_export(folder, threads, context, verify, traced, device)
    elif (folder / "config.json").exists():
        _require_cpu(device, folder, "checkpoint")
        engine = open_checkpoint(folder, threads=threads, context=context)
    else:
        refuse_other_kinds(folder)
        raise SkdError(f"{folder} is neither an export (no {FILE_NAME}) nor a checkpoint (no config.json).")
    engine.load_seconds = time.perf_counter() - start
    return engine


def _open_export(folder: Path, threads: int, context: int, verify: bool, traced: bool, device: str) -> Engine:
    manifest = Manifest.load(folder, verify=verify)
    manifest.require_known_format(folder)
    preprocess = Preprocess.load(folder)
    vision: VisionEncoder
    language: LanguageModel
    if manifest.format == "gguf":
        _require_cpu(device, folder, "GGUF export")
        vision, language = _load_gguf(folder, manifest, threads, context, traced)
    elif manifest.format == "hybrid":
        _require_cpu(device, folder, "hybrid export")
        vision, language = _load_hybrid(folder, manifest, preprocess, threads, context)
    else:
        vision, language = _load_onnx(folder, manifest, preprocess, threads, context, device)
    return Engine(
        folder.name,
        ChatPrompt.load(folder),
        preprocess,
        vision,
        language,
        image_tokens=manifest.image.tokens,
        end_tokens=frozenset(manifest.end_tokens),
    )


def _load_gguf(
    folder: Path, manifest: Manifest, threads: int, context: int, traced: bool
) -> tuple[VisionEncoder, LanguageModel]:
    from switchkd.runtime.engines.llama.engine import is_rearranged, load_parts

    return load_parts(
        folder / manifest.file_of("vision"),
        folder / manifest.file_of("language"),
        manifest.image.token_id,
        threads=threads,
        context=context,
        mapped=not is_rearranged(manifest.files[manifest.file_of("language")].tensor_types),
        # Float32 files are there to be exact; half a key-value cache would undo that.
        exact=(manifest.quant == "f32", manifest.vision_quant == "f32"),
        traced=traced,
    )


def _load_onnx(
    folder: Path, manifest: Manifest, preprocess: Preprocess, threads: int, context: int, device: str
) -> tuple[VisionEncoder, LanguageModel]:
    from switchkd.runtime.engines.onnx.engine import load_parts

    vision, embedding, language = (folder / manifest.file_of(role) for role in ("vision", "embedding", "language"))
    return load_parts(
        vision,
        embedding,
        language,
        preprocess,
        manifest.image.token_id,
        threads=threads,
        context=min(context, manifest.context),
        device=device,
    )


def _load_hybrid(
    folder: Path, manifest: Manifest, preprocess: Preprocess, threads: int, context: int
) -> tuple[VisionEncoder, LanguageModel]:
    from switchkd.runtime.engines.llama.engine import is_rearranged, load_language
    from switchkd.runtime.engines.onnx.engine import OnnxVision

    vision = OnnxVision(folder / manifest.file_of("vision"), preprocess, threads=threads)
    language = load_language(
        folder / manifest.file_of("language"),
        manifest.image.token_id,
        threads=threads,
        context=context,
        mapped=not is_rearranged(manifest.files[manifest.file_of("language")].tensor_types),
        exact=manifest.quant == "f32",
    )
    return vision, language


def _require_cpu(device: str, folder: Path, kind: str) -> None:
    if device != CPU:
        raise SkdError(f"{folder} is a {kind}, which runs on the processor; only ONNX exports run on '{device}'.")


def open_checkpoint(folder: Path, *, threads: int, context: int = DEFAULT_CONTEXT) -> Engine:
    """A checkpoint's engine in PyTorch, also where its folder holds an export too; arguments and errors as for `open_engine`."""
    from switchkd.runtime.engines.pytorch import load_parts

    prompt, preprocess = ChatPrompt.load(folder), Preprocess.load(folder)
    vision, language = load_parts(folder, preprocess, threads=threads, context=context)
    return Engine(
        folder.name,
        prompt,
        preprocess,
        vision,
        language,
        image_tokens=vision.image_tokens,
        end_tokens=end_token_ids(folder, prompt),
    )
