"""The files beside an export's weights: a checkpoint's own, its chat template in a form that every reader takes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from switchkd.chat_template import inference_template

_TEMPLATE = "chat_template.jinja"
_JSON = ("tokenizer_config.json", "chat_template.json", "processor_config.json")  # may hold a template as well
_KEPT = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "preprocessor_config.json",
)


def copy_companions(checkpoint: Path, folder: Path) -> None:
    """Copies what makes an export folder complete in itself.

    Chat templates come without their `{% generation %}` blocks, which are for training: outside of transformers hardly any
    reader knows them.
    """
    for name in (*_KEPT, _TEMPLATE, *_JSON):
        source, target = checkpoint / name, folder / name
        if not source.is_file():
            continue
        shutil.copyfile(source, target)
        if name == _TEMPLATE:
            text = source.read_text(encoding="utf-8")
            if (plain := inference_template(text)) != text:
                target.write_text(plain, encoding="utf-8")
        elif name in _JSON:
            settings = json.loads(source.read_text(encoding="utf-8"))
            template = settings.get("chat_template") if isinstance(settings, dict) else None
            if (plain := _plain(template)) != template:
                text = json.dumps(settings | {"chat_template": plain}, indent=2, ensure_ascii=False)
                target.write_text(f"{text}\n", encoding="utf-8")


def _plain(template: Any) -> Any:
    """A template, or several by name: `[{"name": …, "template": …}]`."""
    if isinstance(template, str):
        return inference_template(template)
    if isinstance(template, list):
        return [
            {**entry, "template": _plain(entry["template"])}
            if isinstance(entry, dict) and "template" in entry
            else entry
            for entry in template
        ]
    return template
