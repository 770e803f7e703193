"""A student back in TinyLLaVA Factory's layout, so that Factory's own evaluation runs on it.

Factory chooses classes by parts of names and reads a part's settings and tokenizer from the folder of that name. So the export
holds one folder a part, called so that Factory knows it, and config.json names both by where they will lie.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from switchkd.architecture.architecture import Architecture
from switchkd.architecture.names import plain_name
from switchkd.chat_template import shipped_template
from switchkd.disk import require_replaceable
from switchkd.errors import CheckpointError, SkdError
from switchkd.files import replacing_folder
from switchkd.importing.known import recognise
from switchkd.importing.layout import Source
from switchkd.importing.model import understand
from switchkd.importing.settings import read_config
from switchkd.importing.stored import Stored, stored_tensors
from switchkd.importing.words import read_words
from switchkd.importing.writer import Entry, write_weights
from switchkd.preprocess import Preprocess
from switchkd.prompt import ChatPrompt, Message

FORMAT = "tinyllava"
MODEL = "TinyLlavaForConditionalGeneration"


@dataclass(frozen=True)
class Part:
    """What Factory calls a family: a word that its folder's name has to hold, and no other of these."""

    word: str
    conversation: Mapping[str, str]  # end token → Factory's name of the words that it goes with


LANGUAGES = {
    "qwen2": Part("qwen2", {"<|endoftext|>": "qwen2_base", "<|im_end|>": "qwen2_instruct"}),
    "llama": Part("tinyllama", {"</s>": "llama"}),
}
TOWERS = {"siglip_vision_model": "siglip", "clip_vision_model": "clip"}
CONNECTORS = {"mlp1": "mlp1x_gelu", "mlp": "mlp2x_gelu", "mlp3": "mlp3x_gelu"}
# Every word by which Factory chooses a class; it takes the last that it finds anywhere in a path.
_LANGUAGE_WORDS = ("gemma", "openelm", "phi", "qwen2", "stablelm", "tinyllama")
_TOWER_WORDS = ("clip", "dinov2", "mof", "siglip")
_ADAPTER_WORD = "lora"  # a folder with it in its path is opened as an adapter
# How names begin here, in the one spelling of `switchkd.architecture.names` → there.
_NAMES = {
    "vision_tower.": "vision_tower._vision_tower.vision_model.",
    "language_model.": "language_model.model.",
    "lm_head.": "language_model.lm_head.",
    "multi_modal_projector.linear_1.": "connector._connector.0.",
    "multi_modal_projector.linear_2.": "connector._connector.2.",
    "multi_modal_projector.linear_3.": "connector._connector.4.",
}


def write_tinyllava(
    checkpoint: Path, out: Path, *, force: bool = False, progress: Callable[[str], None] = lambda _: None
) -> list[tuple[str, str]]:
    """Writes a folder, whole or not at all, after reading it back: every tensor has to be the checkpoint's, bit by bit.

    Returns: what was decided: rows of a name and a value.

    Raises:
        CheckpointError: what Factory can't express, by name; nothing was written then.
        SkdError: the folder exists, holds the checkpoint, or can't be written.
    """
    target = out.resolve()
    _check_target(checkpoint, target, force)
    architecture, prompt = Architecture.read(checkpoint), ChatPrompt.load(checkpoint)
    preprocess = Preprocess.load(checkpoint)
    language, tower = _check(architecture, preprocess, checkpoint)
    _check_path(target, language.word, tower)
    tensors = _tensors(checkpoint, architecture.says_tied)
    entries = [Entry(_foreign_name(name), each.dtype, each.shape, each.load) for name, each in tensors.items()]
    with replacing_folder(target, replace=force) as folder:
        config = _config(architecture, prompt, preprocess, target / language.word, target / tower, checkpoint)
        _write_json(folder / "config.json", config)
        _write_language(folder / language.word, architecture, checkpoint)
        _write_tower(folder / tower, architecture, preprocess)
        write_weights(entries, folder, progress)
        progress("reading it back")
        _check_equal(folder, tensors, checkpoint)
    conversation = _conversation(prompt, language)
    return [
        ("connector", CONNECTORS[architecture.projector.name]),
        ("features", f"layer {architecture.feature_layers}, {_strategy(architecture)}"),
        ("pictures", "pad" if preprocess.pad else "square"),
        ("tensors", f"{len(entries)}, read back bit by bit"),
        ("--conv-mode", conversation or "none: Factory asks in other words than the model's chat template"),
    ]


def _check_target(checkpoint: Path, target: Path, force: bool) -> None:
    """Raises SkdError unless the export may be put there: nothing but an older one is ever replaced."""
    if checkpoint.resolve().is_relative_to(target):
        raise SkdError(f"{target} holds the checkpoint itself; choose another --out.")
    require_replaceable(target)
    if not target.exists():
        return
    if not force:
        raise SkdError(f"{target} is already there; replace it with --force or choose another --out.")
    if any(target.iterdir()) and not any((target / part.word).is_dir() for part in LANGUAGES.values()):
        raise SkdError(f"{target} is no export of this format, so --force doesn't replace it; choose another --out.")


def _check(architecture: Architecture, preprocess: Preprocess, folder: Path) -> tuple[Part, str]:
    """Factory's words for language model and tower. Raises CheckpointError for what Factory can't express."""
    language, tower = LANGUAGES.get(architecture.language.name), TOWERS.get(architecture.tower.name)
    if language is None or tower is None:
        family = architecture.language if language is None else architecture.tower
        raise CheckpointError(f"{folder}: TinyLLaVA Factory has no {family.title} ({family.name}).")
    if architecture.projector.name not in CONNECTORS:
        raise CheckpointError(f"{folder}: TinyLLaVA Factory has no connector {architecture.projector.name}.")
    if not isinstance(architecture.feature_layers, int):
        raise CheckpointError(f"{folder} joins several feature layers; TinyLLaVA Factory reads one.")
    if architecture.tower.processor_class == "SiglipImageProcessor" and preprocess.shortest_edge is not None:
        raise CheckpointError(f"{folder} cuts pictures for a SigLIP tower, which TinyLLaVA Factory doesn't.")
    architecture.require(folder)
    return language, tower


def _check_path(target: Path, language: str, tower: str) -> None:
    """Raises SkdError for a path by which Factory would choose other classes, or open an adapter."""
    for folder, word, words in ((target / language, language, _LANGUAGE_WORDS), (target / tower, tower, _TOWER_WORDS)):
        found = [each for each in words if each in str(folder).lower() and each != word]
        if found or ":" in str(folder) or _ADAPTER_WORD in str(folder):
            what = found[0] if found else ":" if ":" in str(folder) else _ADAPTER_WORD
            raise SkdError(f"{target} has '{what}' in its path, by which TinyLLaVA Factory goes; choose another --out.")


def _strategy(architecture: Architecture) -> str:
    return "patch" if architecture.select_strategy == "default" else "cls_patch"


def _config(
    architecture: Architecture,
    prompt: ChatPrompt,
    preprocess: Preprocess,
    language: Path,
    tower: Path,
    checkpoint: Path,
) -> dict[str, Any]:
    config, text = architecture.config, architecture.config["text_config"]
    return {
        "architectures": [MODEL],
        "model_type": FORMAT,
        "connector_type": CONNECTORS[architecture.projector.name],
        "dtype": config.get("dtype"),
        "torch_dtype": config.get("dtype"),
        "hidden_size": architecture.text["hidden_size"],
        "ignore_index": -100,
        "image_aspect_ratio": "pad" if preprocess.pad else "square",
        "image_token_index": -200,
        "llm_model_name_or_path": str(language),
        "tokenizer_name_or_path": str(language),
        "tokenizer_model_max_length": _max_length(checkpoint),
        "tokenizer_padding_side": "right",
        "tokenizer_use_fast": True,
        "pad_token": prompt.special_tokens.get("pad_token"),
        "pad_token_id": prompt.token_id("pad_token"),
        "text_config": {**text, "tie_word_embeddings": architecture.says_tied},
        "tie_word_embeddings": architecture.says_tied,
        "use_cache": True,
        "vision_config": config["vision_config"],
        "vision_feature_layer": architecture.feature_layers,
        "vision_feature_select_strategy": _strategy(architecture),
        "vision_hidden_size": architecture.vision["hidden_size"],
        "vision_model_name_or_path": str(tower),
        "vision_model_name_or_path2": "",
        "vocab_size": architecture.text["vocab_size"],
    }


def _max_length(checkpoint: Path) -> int:
    return read_words(checkpoint).max_length


def _write_language(folder: Path, architecture: Architecture, checkpoint: Path) -> None:
    """The language model's settings and tokenizer, which Factory reads by their folder."""
    folder.mkdir()
    text = {**architecture.config["text_config"], "tie_word_embeddings": architecture.says_tied}
    _write_json(folder / "config.json", {**text, "architectures": [architecture.language.model_class]})
    read_words(checkpoint).save(folder)


def _write_tower(folder: Path, architecture: Architecture, preprocess: Preprocess) -> None:
    """The tower's settings and how pictures come to its size, which Factory reads by their folder."""
    folder.mkdir()
    vision = {**architecture.config["vision_config"], "architectures": [architecture.tower.model_class]}
    _write_json(folder / "config.json", vision)
    stretched = {"height": preprocess.height, "width": preprocess.width}
    sizes: dict[str, Any] = {"size": stretched}
    if architecture.tower.crops:
        crops = preprocess.shortest_edge is not None
        sizes = {"size": {"shortest_edge": preprocess.shortest_edge} if crops else stretched, "crop_size": stretched}
        sizes["do_center_crop"] = crops
    processor = {
        "image_processor_type": architecture.tower.processor_class,
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "resample": preprocess.resample,
        "rescale_factor": preprocess.rescale_factor,
        "image_mean": list(preprocess.mean),
        "image_std": list(preprocess.std),
        **sizes,
    }
    _write_json(folder / "preprocessor_config.json", processor)


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def _foreign_name(name: str) -> str:
    begin = next((begin for begin in _NAMES if name.startswith(begin)), None)
    if begin is None:
        raise CheckpointError(f"TinyLLaVA Factory has no tensor {name}.")
    return _NAMES[begin] + name.removeprefix(begin)


def _tensors(checkpoint: Path, tied: bool) -> dict[str, Stored]:
    """The checkpoint's, without a head that is the embedding. Raises CheckpointError where it should be and isn't."""
    tensors = {plain_name(name): stored for name, stored in stored_tensors(checkpoint).items()}
    head = tensors.pop("lm_head.weight", None) if tied else None
    if head is not None and not torch.equal(head.load(), tensors["language_model.embed_tokens.weight"].load()):
        raise CheckpointError(f"{checkpoint} says tie_word_embeddings, but its lm_head differs from its embedding.")
    return tensors


def _check_equal(folder: Path, tensors: Mapping[str, Stored], checkpoint: Path) -> None:
    """Raises CheckpointError unless an import of the folder would give the checkpoint's tensors."""
    source = Source(folder, read_config(folder))
    model = understand(recognise(source).read(source), folder)
    found = {plain_name(entry.name): entry for entry in model.entries(0)}
    differing = [
        name
        for name in {*found, *tensors}
        if name not in found or name not in tensors or not torch.equal(found[name].load(), tensors[name].load())
    ]
    if differing:
        raise CheckpointError(f"The export of {checkpoint} isn't the checkpoint: {min(differing)} differs.")


def _conversation(prompt: ChatPrompt, language: Part) -> str | None:
    """Factory's name of the words in which the model is asked; None where Factory asks otherwise."""
    end = prompt.special_tokens.get("eos_token", "")
    talk: list[Message] = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "first"}]},
        {"role": "assistant", "content": "second"},
        {"role": "user", "content": "third"},
    ]
    opens = "llama" in language.conversation.values()
    if opens and "bos_token" not in prompt.special_tokens:
        return None
    template = shipped_template("vicuna" if opens else "tinyllava")
    factorys = ChatPrompt(prompt.tokenizer, template, prompt.image_token_id, prompt.special_tokens)
    same = factorys.render(talk, True)[0] == prompt.render(talk, True)[0]
    return language.conversation.get(end) if same else None
