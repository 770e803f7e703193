"""Checkpoints whose pictures are pasted on a square first."""

from __future__ import annotations

import json
from pathlib import Path


def with_padding(folder: Path) -> Path:
    """Changes a checkpoint's preprocessing to transformers' LlavaImageProcessor with padding."""
    for name in ("preprocessor_config.json", "processor_config.json"):
        settings = json.loads((folder / name).read_text())
        part = settings.get("image_processor", settings)
        part |= {"image_processor_type": "LlavaImageProcessor", "do_pad": True}
        part.setdefault("do_center_crop", False)
        (folder / name).write_text(json.dumps(settings))
    return folder
