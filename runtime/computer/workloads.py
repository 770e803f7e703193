"""A variant's workload: its shapes from config.json, its real bytes from the manifest. No weights are read."""

from __future__ import annotations

from pathlib import Path

from switchkd.architecture.architecture import Architecture
from switchkd.errors import SkdError
from switchkd.hardware.runtimes import Runtime
from switchkd.hardware.workload import Language, StoredModel, Tower, Workload
from switchkd.manifest import FileEntry, Manifest
from switchkd.runtime.engines.formats import known_runtimes, runtime_of
from switchkd.runtime.engines.opening import find_variant, require_known_format

_WIDE = ("f32", "f16", "q8_0")  # types that a 4- or 5-bit mixture has in its norms and head alone


def read_workload(variant: str | Path) -> Workload:
    """What an export folder, or the name of one of the newest run's exports, computes and keeps.

    Raises:
        SkdError: there is no such variant, or its manifest or config.json can't be used.
    """
    folder = find_variant(variant)
    manifest = Manifest.load(folder, verify=False)
    require_known_format(manifest, folder)
    architecture = Architecture.read(folder)
    language, tower = _language(architecture), _tower(architecture, manifest)
    tokenizer, text = manifest.files.get("tokenizer.json"), _text(manifest, architecture, language)
    return Workload(
        name=folder.resolve().name,
        language=language,
        text=text,
        tower=tower,
        image=_image(manifest),
        image_tokens=manifest.image.tokens,
        cache_bytes=text.runtime.cache_bytes_at(manifest.quant),
        trained_context=manifest.context,
        tokenizer_bytes=tokenizer.bytes if tokenizer else 0,
        tied=architecture.says_tied,
    )


def _language(architecture: Architecture) -> Language:
    text = architecture.text
    return Language(
        layers=text["num_hidden_layers"],
        width=text["hidden_size"],
        feed_forward=text["intermediate_size"],
        heads=text["num_attention_heads"],
        kv_heads=text["num_key_value_heads"],
        head_width=architecture.head_width,
        rows=text["vocab_size"],
    )


def _tower(architecture: Architecture, manifest: Manifest) -> Tower:
    vision = architecture.vision
    return Tower(
        layers=architecture.used_layers,  # those after it are cut off
        width=vision["hidden_size"],
        feed_forward=vision["intermediate_size"],
        tokens=architecture.positions,
        patch_values=vision.get("num_channels", 3) * vision["patch_size"] ** 2,
        heads=vision["num_attention_heads"],
        projector_weights=architecture.projector_macs(read=1, made=1),
        projector_macs=architecture.projector_macs(read=architecture.read_tokens, made=architecture.image_tokens),
    )


def _text(manifest: Manifest, architecture: Architecture, language: Language) -> StoredModel:
    """The language model, with its embedding where that is a file of its own."""
    entry = manifest.files[manifest.file_of("language")]
    tensors = _tensor_bytes(entry)
    embedding = any(each.role == "embedding" for each in manifest.files.values())
    read = tensors
    if not embedding and not architecture.says_tied:
        # The file holds the embedding beside the head, and of that one row a token is read.
        read -= min(tensors, tensors * language.head_weights // (language.token_weights + language.head_weights))
    resident = _file_bytes(manifest, "language") + (_file_bytes(manifest, "embedding") if embedding else 0)
    runtime = _runtime(manifest.file_of("language"), manifest)
    return StoredModel(runtime.name, manifest.quant, read, resident, _blocks(manifest.quant, runtime, entry))


def _blocks(quant: str, runtime: Runtime, entry: FileEntry) -> str:
    """What the blocks of a mixture are mostly made of, which is what its speed goes by: "q4_k_m" holds slower types where rows
    can't be cut into K-blocks. Empty where the precision's name says it. A head of 8 bits, as large as it may be, is no block.
    """
    if quant in runtime.kernels:
        return ""
    stored = {name.lower(): count.bytes for name, count in entry.tensor_types.items()}
    known = [name for name in stored if name in runtime.kernels and name not in _WIDE]
    return max(known, key=stored.__getitem__, default="")


def _image(manifest: Manifest) -> StoredModel:
    name = manifest.file_of("vision")
    return StoredModel(
        _runtime(name, manifest).name,
        manifest.vision_quant,
        _tensor_bytes(manifest.files[name]),
        _file_bytes(manifest, "vision"),
    )


def _runtime(name: str, manifest: Manifest) -> Runtime:
    """What runs a file: a folder may hold a tower of one format and a language model of the other."""
    runtime = runtime_of(name)
    if runtime is None:
        known = " and ".join(each.files for each in known_runtimes().values())
        raise SkdError(f"Nothing is known of how fast {manifest.format} files like {name} are; known: {known}.")
    return runtime


def _tensor_bytes(entry: FileEntry) -> int:
    return sum(count.bytes for count in entry.tensor_types.values()) or entry.bytes


def _file_bytes(manifest: Manifest, role: str) -> int:
    """A file and, in ONNX, the data file beside it."""
    name = manifest.file_of(role)
    data = manifest.files.get(f"{name}_data")
    return manifest.files[name].bytes + (data.bytes if data else 0)
