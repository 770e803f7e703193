"""From a folder to a running engine: an export by its manifest, a checkpoint by PyTorch."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from switchkd.architecture.endings import end_token_ids
from switchkd.architecture.references import is_reference, resolve_checkpoint
from switchkd.architecture.weights import refuse_other_kinds
from switchkd.computer import usable_processors
from switchkd.errors import SkdError
from switchkd.hardware.runtimes import GGUF, ONNX
from switchkd.manifest import FILE_NAME, Manifest, ManifestError
from switchkd.preprocess import Preprocess
from switchkd.prompt import ChatPrompt
from switchkd.runs import RUNS, trained_pictures
from switchkd.runtime.engines.engine import Engine
from switchkd.runtime.engines.formats import MODULES, known_formats, known_runtimes, runtime_of
from switchkd.runtime.engines.interfaces import CPU, DEFAULT_CONTEXT, LanguageModel, VisionEncoder
from switchkd.runtime.engines.llama import engine as llama
from switchkd.runtime.engines.onnx import engine as onnx
from switchkd.runtime.engines.parts import ExportParts, Opener, PartFiles, RunOptions
from switchkd.runtime.packages.usage import Usage

_EXPORTS = RUNS / "latest" / "exports"
# By the runtime's name; one from outside is opened by its own module.
OPENERS: dict[str, Opener] = {GGUF: llama, ONNX: onnx}


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
        usage = Usage(folder)
        try:
            engine = _open_export(folder, verify, RunOptions(threads, context, device, traced))
        except BaseException:
            usage.close()
            raise
        engine.usage = usage
    elif (folder / "config.json").exists():
        _require_cpu(device, folder, "checkpoint")
        engine = open_checkpoint(folder, threads=threads, context=context)
    else:
        refuse_other_kinds(folder)
        raise SkdError(f"{folder} is neither an export (no {FILE_NAME}) nor a checkpoint (no config.json).")
    engine.load_seconds = time.perf_counter() - start
    return engine


def open_parts(export: ExportParts, options: RunOptions) -> Engine:
    """An engine of an export's two parts, each opened by the runtime of its file.

    Raises:
        SkdError: nothing here runs a file, or what does can't read it.
    """
    options = replace(options, context=min(options.context, export.context))
    # The larger part first: what loading takes for a while is then not on top of the other.
    language = _opener(export.language.file("language")).open_language(export, options)
    try:
        vision = open_vision(export, options, language)
    except BaseException:
        language.close()
        raise
    return Engine(
        export.name,
        export.prompt,
        export.preprocess,
        vision,
        language,
        image_tokens=export.image_tokens,
        end_tokens=export.end_tokens,
    )


def open_vision(export: ExportParts, options: RunOptions, language: LanguageModel | None = None) -> VisionEncoder:
    """The vision part; arguments and errors as for `Opener.open_vision`."""
    return _opener(export.vision.file("vision")).open_vision(export, options, language)


def _opener(file: Path) -> Opener:
    runtime = runtime_of(file.name)
    if runtime is None:
        known = ", ".join(each.suffix for each in known_runtimes().values())
        raise SkdError(f"Nothing here runs {file}; what runs ends in {known}.")
    return OPENERS.get(runtime.name) or MODULES[runtime.name]


def require_known_format(manifest: Manifest, folder: Path) -> None:
    """Raises ManifestError for a format of another version, of which nothing can be run, predicted or packed."""
    if manifest.format not in known_formats():
        raise ManifestError(f"{folder} is of the format '{manifest.format}', which this version of skd can't run.")


def _open_export(folder: Path, verify: bool, options: RunOptions) -> Engine:
    manifest = Manifest.load(folder, verify=verify)
    require_known_format(manifest, folder)
    format, runtimes = known_formats()[manifest.format], known_runtimes()
    if not all(runtimes[name].devices for name in (format.vision, format.language)):
        whole = runtimes.get(format.name)
        _require_cpu(options.device, folder, f"{whole.files if whole else format.name} export")

    def part(name: str, precision: str, roles: Iterable[str]) -> PartFiles:
        files = {role: folder / manifest.file_of(role) for role in (name, *roles)}
        return PartFiles(files, precision, lambda: manifest.files[manifest.file_of(name)].tensor_types)

    others = {entry.role for entry in manifest.files.values()} - {"", "vision", "language"}
    export = ExportParts(
        folder.name,
        ChatPrompt.load(folder),
        Preprocess.load(folder),
        part("vision", manifest.vision_quant, ()),
        part("language", manifest.quant, others),
        image_tokens=manifest.image.tokens,
        end_tokens=frozenset(manifest.end_tokens),
        context=manifest.context,
    )
    engine = open_parts(export, options)
    engine.trained_pictures = manifest.pictures
    return engine


def _require_cpu(device: str, folder: Path, kind: str) -> None:
    if device != CPU:
        elsewhere = " and ".join(runtime.files for runtime in known_runtimes().values() if runtime.devices)
        raise SkdError(
            f"{folder} is a {kind}, which runs on the processor; only {elsewhere} exports run on '{device}'."
        )


def open_checkpoint(folder: Path, *, threads: int, context: int = DEFAULT_CONTEXT) -> Engine:
    """A checkpoint's engine in PyTorch, also where its folder holds an export too; arguments and errors as for `open_engine`."""
    from switchkd.runtime.engines.pytorch import load_parts

    prompt, preprocess = ChatPrompt.load(folder), Preprocess.load(folder)
    vision, language = load_parts(folder, preprocess, threads=threads, context=context)
    engine = Engine(
        folder.name,
        prompt,
        preprocess,
        vision,
        language,
        image_tokens=vision.image_tokens,
        end_tokens=end_token_ids(folder, prompt),
    )
    engine.trained_pictures = trained_pictures(folder)
    return engine
