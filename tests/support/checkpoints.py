"""Weight files of every kind beside a LLaVA configuration, tiny and without a model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"


def configure(folder: Path, **entries: Any) -> None:
    """Adds entries to config.json."""
    path = folder / "config.json"
    config = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(config | entries))


def shard(folder: Path, *, keep_whole: bool = False, index: bool = True) -> list[str]:
    """Cuts the folder's model.safetensors into two shards with an index; their names."""
    tensors = load_file(folder / WHOLE)
    names = sorted(tensors)
    halves = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, half in halves.items():
        save_file({name: tensors[name] for name in half}, folder / file, metadata={"format": "pt"})
    if index:
        placed = {name: file for file, half in halves.items() for name in half}
        (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    if not keep_whole:
        (folder / WHOLE).unlink()
    return list(halves)


def add_tensors(folder: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Puts more tensors into the folder's model.safetensors."""
    save_file({**load_file(folder / WHOLE), **tensors}, folder / WHOLE, metadata={"format": "pt"})


def adapter(folder: Path, base: str = "owner/model") -> Path:
    """A folder as peft saves an adapter."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": base}))
    save_file({"base_model.model.q_proj.lora_A.weight": torch.zeros(2, 4)}, folder / "adapter_model.safetensors")
    return folder
