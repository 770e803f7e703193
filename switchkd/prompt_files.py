"""What a checkpoint or export folder says of its prompts: tokenizer, special tokens, chat template, image token. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from switchkd.errors import CheckpointError
from switchkd.files import read_json


def read_tokenizer(folder: Path) -> Tokenizer:
    """tokenizer.json. Raises CheckpointError where it is missing or no tokenizer."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; save the checkpoint with its fast tokenizer.")
    try:
        return Tokenizer.from_str(path.read_text(encoding="utf-8"))  # from_file wants the path to be Unicode
    except Exception as error:  # `tokenizers` raises bare Exception
        raise CheckpointError(f"{path} can't be read as a tokenizer: {error}.") from error


def read_special_tokens(folder: Path) -> dict[str, str]:
    """The `…_token` entries, strings or `{"content": string}`. Raises CheckpointError where a file can't be read."""
    settings = _read_json(folder / "tokenizer_config.json")
    settings = _read_json(folder / "special_tokens_map.json") | settings
    tokens = {name: value for name, value in settings.items() if name.endswith("_token")}
    contents = {name: token.get("content") if isinstance(token, dict) else token for name, token in tokens.items()}
    return {name: content for name, content in contents.items() if isinstance(content, str) and content}


def read_template(folder: Path) -> str:
    """chat_template.jinja, or a "chat_template" entry in one of the JSON files that older checkpoints keep it in. Raises
    CheckpointError where there is none, or none that can be read."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path} can't be read: {error}.") from error
    names = ("processor_config.json", "chat_template.json", "tokenizer_config.json")
    for template in (_read_json(folder / name).get("chat_template") for name in names):
        if isinstance(template, list):  # named templates: [{"name", "template"}]
            template = {entry["name"]: entry["template"] for entry in template}.get("default")
        if isinstance(template, str):
            return template
    raise CheckpointError(f"{folder} has no chat template; put one in {path.name}.")


def read_image_token_id(folder: Path, tokenizer: Tokenizer) -> int:
    """The id of the token in a picture's place. Raises CheckpointError where no file names it."""
    config = _read_json(folder / "config.json")
    for name in ("image_token_index", "image_token_id"):
        if isinstance(config.get(name), int):
            return config[name]
    token = _read_json(folder / "processor_config.json").get("image_token")
    if isinstance(token, str) and (number := tokenizer.token_to_id(token)) is not None:
        return number
    raise CheckpointError(f"{folder / 'config.json'} names no image token (image_token_index).")


def _read_json(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is no such file."""
    try:
        value = read_json(path, CheckpointError)
    except FileNotFoundError:
        return {}
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} isn't a JSON object.")
    return value
