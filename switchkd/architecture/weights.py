"""Which files of a model folder hold its weights, and whether they are plain ones. No torch.

The same for every exporter, for training and for whatever opens a checkpoint: `model.safetensors`, or the shards that
`model.safetensors.index.json` names, as transformers reads them. Other files beside them are left alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from switchkd.errors import CheckpointError

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_HEADER_LIMIT = 100 << 20  # bytes

# What holds weights of other kinds, by the names of the tensors.
_KINDS = {
    "a LoRA adapter's": re.compile(
        r"(^|[._])(lora_[a-z_]*|dora_[a-z_]*|adapter_[a-z_]*|modules_to_save)([._]|$)", re.I
    ),
    "quantized by GPTQ or AWQ": re.compile(r"\.(qweight|qzeros|g_idx)$"),
    "quantized by bitsandbytes": re.compile(
        r"\.(SCB|weight_format|absmax|nested_absmax|quant_map|nested_quant_map)$|\.quant_state\."
    ),
    "quantized": re.compile(
        r"\.(weight_(packed|scale|scale_inv|zero_point|shape|g_idx)|scales|(input|output|k|v)_scale|zero_point)$"
    ),
}
_SMALL_TYPES = ("I8", "U8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F4", "U16", "U32", "I16")  # no weights train in them
_ADAPTER = "adapter_config.json"
_MERGE = "merge it into its base with peft (model.merge_and_unload(), then save_pretrained) and give that folder"
_DEQUANTIZE = "give the checkpoint that it was made from; `skd export` quantizes by itself"


def weight_files(folder: Path) -> list[Path]:
    """The .safetensors files that hold a model's weights.

    Raises:
        CheckpointError: there are none, or none that say which belong together; a named one is missing; they are of another
            kind (an adapter's, quantized, another format's), by name and with what to do.
    """
    refuse_other_kinds(folder)
    whole, index = folder / WHOLE, folder / INDEX
    if whole.is_file() and index.is_file():
        raise CheckpointError(
            f"{folder} holds both {WHOLE} and shards with an {INDEX}; one is left over from an earlier save: delete it."
        )
    if whole.is_file():
        files = [whole]
    elif index.is_file():
        files = [folder / name for name in shards(index)]
    else:
        raise CheckpointError(_none_found(folder))
    refuse_other_tensors(files)
    return files


def refuse_other_kinds(folder: Path) -> None:
    """Raises CheckpointError for a folder that says that it holds an adapter, or quantized weights."""
    config = _json(folder / "config.json")
    if (folder / _ADAPTER).is_file() and not any((folder / name).is_file() for name in (WHOLE, INDEX)):
        base = _json(folder / _ADAPTER).get("base_model_name_or_path")
        of = f" of {base}" if isinstance(base, str) and base else ""
        raise CheckpointError(f"{folder} holds a LoRA adapter{of}, not a whole model; {_MERGE}.")
    parts = (config, *(config[name] for name in ("text_config", "vision_config") if isinstance(config.get(name), dict)))
    for part in parts:
        quantization = part.get("quantization_config")
        if isinstance(quantization, dict):
            method = quantization.get("quant_method") or "another tool"
            raise CheckpointError(f"{folder} is quantized by {method}; {_DEQUANTIZE}.")


def refuse_other_tensors(files: Iterable[Path]) -> None:
    """Raises CheckpointError where a file holds an adapter's or quantized tensors, whatever config.json says."""
    for file in files:
        for name, entry in read_header(file)[0].items():
            refuse_tensor(file, name, entry.get("dtype") if isinstance(entry, dict) else None)


def refuse_tensor(file: Path, name: str, dtype: str | None) -> None:
    """Raises CheckpointError for an adapter's or a quantized tensor, told by its name and its type in a .safetensors file."""
    kind = next((kind for kind, names in _KINDS.items() if names.search(name)), None)
    if kind is None and dtype in _SMALL_TYPES:
        kind = f"quantized ({dtype})"
    if kind is not None:
        raise CheckpointError(
            f"{file.parent}: {name} in {file.name} is {kind}; {_MERGE if 'adapter' in kind else _DEQUANTIZE}."
        )


def read_header(file: Path) -> tuple[dict[str, Any], int, int]:
    """(entries by tensor name, byte at which the data starts, bytes of the file) of a .safetensors file.

    Raises:
        CheckpointError: it can't be read, or is torn.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or length > min(size - 8, _HEADER_LIMIT):
                raise CheckpointError(f"{file} is truncated: its header doesn't fit into its {size} bytes.")
            header = json.loads(stream.read(length))
    except OSError as error:
        raise CheckpointError(f"{file} can't be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} has a torn header: {error}.") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{file} has a torn header: it isn't a JSON object.")
    return {name: entry for name, entry in header.items() if name != "__metadata__"}, 8 + length, size


def shards(index: Path) -> list[str]:
    """The files that an index names, checked. Raises CheckpointError for a torn one, a missing shard, a path out of the folder."""
    placed = _json(index).get("weight_map")
    if not isinstance(placed, dict) or not placed or not all(isinstance(name, str) for name in placed.values()):
        raise CheckpointError(f"{index} is torn: it names no shards; copy it again.")
    names = sorted(set(placed.values()))
    for name in names:
        if Path(name).name != name:
            raise CheckpointError(f"{index} names a file outside its folder: {name!r}.")
        if not (index.parent / name).is_file():
            raise CheckpointError(f"{index.parent} lacks {name}, which its {index.name} names; download it again.")
    return names


def _none_found(folder: Path) -> str:
    names = sorted(path.name for path in folder.glob("*") if path.is_file())
    safe = [name for name in names if name.endswith(".safetensors")]
    if safe:
        return (
            f"{folder} holds {', '.join(safe[:3])}, but neither {WHOLE} nor an {INDEX} that says what belongs together."
        )
    other = next(
        (name for name in names if name.endswith((".bin", ".pt", ".pth", ".gguf", ".onnx", ".h5", ".msgpack"))), None
    )
    seen = f" (only {other})" if other else ""
    return (
        f"{folder} holds no .safetensors weights{seen}; other formats are not read: save it with transformers' "
        "save_pretrained, or `skd import` it where it is of another project's layout."
    )


def _json(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is none that can be read, which others report."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
