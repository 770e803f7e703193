"""LLaVA models as folders: put together from parts, loaded, saved under portable names, taken apart again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import save_torch_state_dict
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerBase,
)

from switchkd.architecture.architecture import PROJECTOR, Architecture, require_family, used_blocks
from switchkd.architecture.config_json import LLAVA, OWN
from switchkd.architecture.families import find, known
from switchkd.architecture.family import Language, Projector, Tower
from switchkd.architecture.names import portable_name
from switchkd.architecture.weights import refuse_other_kinds, weight_files
from switchkd.errors import CheckpointError, first_line
from switchkd.files import replacing_folder
from switchkd.models.llava import classes
from switchkd.models.llava_processor import (
    PROCESSOR_FILES,
    copy_processor,
    default_image_processor,
    new_processor,
    on_square,
    save_processor,
)
from switchkd.models.tokenizer import IMAGE_PAD


def part_modules(vlm: LlavaForConditionalGeneration) -> dict[str, list[nn.Module]]:
    """The modules of each part, by its name in recipes."""
    model = vlm.model
    return {
        "vision": [model.vision_tower],
        "projector": [model.multi_modal_projector],
        "language": [model.language_model, vlm.lm_head],
    }


def read_config(folder: Path) -> Any:
    """The configuration of a checkpoint folder.

    Raises:
        CheckpointError: config.json is missing or unreadable, or is an adapter's or a quantized model's.
    """
    refuse_other_kinds(folder)
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers raises all kinds on entries of other types
        raise CheckpointError(f"{folder} has no usable config.json: {first_line(error)}") from error


def assemble(
    vision: Any,
    language: Any,
    tokenizer: PreTrainedTokenizerBase,
    image_processor: Any | None = None,
    *,
    feature_layer: int = -1,
    feature_select: str | None = None,
    projector: str | None = None,
    projector_settings: Mapping[str, Any] | None = None,
    template: str | None = None,
    pictures: str | None = None,
) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """A LLaVA model of two parts and a new, random projector.

    Args:
        vision: a vision model of a known family with weights, or its configuration for random ones.
        language: a causal language model of a known family with weights, or its configuration for random ones.
        tokenizer: the language model's; its `<|image_pad|>` becomes the image token where it has one, otherwise the
            token is added, into the embedding's spare rows where there are any.
        image_processor: the vision model's, or None for that family's defaults at the tower's size.
        feature_layer: which hidden layer of the tower feeds the projector.
        feature_select: "default" leaves the tower's first token out, "full" reads all; None for every patch and no class token.
        projector: its family, where it isn't LLaVA's own.
        projector_settings: config.json's entries that the family is set by, where they differ from its defaults.
        template: of chats, by the name of one that comes with the package; None for Qwen's where the tokenizer has its tokens,
            else Vicuna's.
        pictures: "pad" pastes them on a square of the mean's colour first; None for the image processor's own way.

    Raises:
        CheckpointError: a part of an unsupported kind, a feature layer that no block of the tower makes, or a projector that
            can't be made as it is set, or can't read what the tower gives it.
    """
    vision_config, text_config = getattr(vision, "config", vision), getattr(language, "config", language)
    tower_family = _check_parts(vision_config, text_config, feature_layer)
    family = require_family(Projector, projector or PROJECTOR, "The new projector")
    config_class, model_class, _ = classes(projector)
    image_token_id = _image_token(tokenizer)
    tied = bool(getattr(text_config, "tie_word_embeddings", False))
    for name, value in tower_family.settings.items():
        setattr(vision_config, name, value)
    # "default" drops token 0: a class token, but a real patch of a tower without one.
    select: Any = feature_select or ("default" if tower_family.class_token else "full")
    config: Any = config_class(
        vision_config=vision_config,
        text_config=text_config,
        image_token_index=image_token_id,
        vision_feature_layer=feature_layer,
        vision_feature_select_strategy=select,
        projector_hidden_act="gelu",
        tie_word_embeddings=tied,
        **family.entries(projector_settings or {}),
    )
    config.image_seq_length = Architecture.of(config.to_dict()).image_tokens
    vlm: Any = model_class(config)
    if isinstance(vision, nn.Module):
        tower = vlm.model.vision_tower
        weights = {name.removeprefix("vision_model."): tensor for name, tensor in vision.state_dict().items()}
        tower.load_state_dict({name: weights[name] for name in tower.state_dict()})
    if isinstance(language, nn.Module):
        weighted: Any = language
        vlm.model.language_model.load_state_dict(weighted.model.state_dict())
        if not tied:
            vlm.lm_head.load_state_dict(weighted.lm_head.state_dict())
    if len(tokenizer) > text_config.vocab_size:
        vlm.resize_token_embeddings(len(tokenizer))
    vlm.generation_config.eos_token_id = tokenizer.eos_token_id
    vlm.generation_config.pad_token_id = tokenizer.pad_token_id
    images = image_processor or default_image_processor(vision_config)
    processor = new_processor(config, on_square(images) if pictures == "pad" else images, tokenizer, template)
    return vlm, processor


def _check_parts(vision_config: Any, text_config: Any, feature_layer: int) -> Tower:
    tower = require_family(Tower, vision_config.model_type, "The vision part")
    require_family(Language, text_config.model_type, "The language part")
    used_blocks(feature_layer, vision_config.num_hidden_layers)
    return tower


def _image_token(tokenizer: PreTrainedTokenizerBase) -> int:
    vocabulary = tokenizer.get_vocab()
    for token in (IMAGE_PAD, "<image>"):
        if token in vocabulary:
            return vocabulary[token]
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    return tokenizer.get_vocab()["<image>"]


def load_vision(folder: Path) -> nn.Module:
    """A tower of a known family, alone or out of a full two-tower or LLaVA checkpoint."""
    config = read_config(folder)
    if config.model_type in (LLAVA, OWN):
        return load_vlm(folder).model.vision_tower
    kind = getattr(config, "vision_config", config).model_type
    return _load(_model_class(Tower, kind, f"{folder} holds a '{kind}'; a vision part"), folder)


def load_language(folder: Path) -> Any:
    """A causal language model of a known family."""
    kind = read_config(folder).model_type
    return _load(_model_class(Language, kind, f"{folder} holds a '{kind}'; a language part"), folder)


def _model_class(kind: type[Tower] | type[Language], name: str, refusal: str = "") -> Any:
    """transformers' class of a family. Raises CheckpointError, beginning with `refusal`, for one that isn't known."""
    family = find(kind, name)
    if family is None:
        raise CheckpointError(f"{refusal} is one of {', '.join(each.name for each in known(kind))}.")
    return getattr(transformers, family.model_class)


def load_vlm(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """A LLaVA model from a llava-hf style folder.

    Raises:
        CheckpointError: another kind of model, or weights that are torn, missing or unpaired with the configuration.
    """
    config = read_config(folder)
    if config.model_type not in (LLAVA, OWN):
        raise CheckpointError(
            f"{folder} holds a '{config.model_type}', not a LLaVA model; put one together with `skd init`, or bring one "
            "of another layout in with `skd import`."
        )
    return _load(classes(getattr(config, "projector_type", None))[1], folder, dtype)


def _load(cls: type, folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    weight_files(folder)  # refuses what transformers would take for random, or unpack by another package
    try:
        model, report = cls.from_pretrained(  # type: ignore[attr-defined]
            folder, dtype=dtype, use_safetensors=True, output_loading_info=True, local_files_only=True
        )
    except Exception as error:
        raise CheckpointError(f"The weights in {folder} can't be read: {first_line(error)}") from error
    # A silently re-initialised part would train on, or distil, noise.
    missing = [key for key in report["missing_keys"] if ".head." not in key]  # a tower's, which no feature comes from
    if missing:
        raise CheckpointError(f"The weights in {folder} are incomplete: {len(missing)} missing, first {missing[0]}.")
    if report.get("mismatched_keys"):
        raise CheckpointError(f"The weights in {folder} don't fit its config.json: {report['mismatched_keys'][0]}.")
    return model


def save_vlm(vlm: LlavaForConditionalGeneration, folder: Path, processor_from: LlavaProcessor | Path) -> None:
    """Writes a complete model folder, whole or not at all, that transformers 4.57 and 5 both read.

    Args:
        processor_from: a processor, or a model folder whose tokenizer, chat template and preprocessing are kept.
    """
    with replacing_folder(folder) as partial:
        save_torch_state_dict(portable_state_dict(vlm), partial, metadata={"format": "pt"})
        vlm.generation_config.save_pretrained(partial)
        # Training may have changed the precision; readers take the config's word for it.
        config: Any = vlm.config
        for each in (config, config.text_config, config.vision_config):
            each.dtype = vlm.dtype
        write_portable_config(vlm.config, partial)
        if isinstance(processor_from, Path):
            copy_processor(processor_from, partial)
        else:
            save_processor(processor_from, partial)


def portable_state_dict(vlm: LlavaForConditionalGeneration) -> dict[str, Tensor]:
    """The weights under the names that every transformers reads."""
    tied = vlm.config.tie_word_embeddings
    weights: dict[str, Tensor] = {}
    for name, tensor in vlm.state_dict().items():
        if tied and name.startswith("lm_head."):
            continue
        # DeepSpeed keeps parameters as views of one long buffer, which a file would hold whole for each.
        is_view = tensor.untyped_storage().nbytes() > tensor.nbytes
        weights[portable_name(name)] = tensor.clone() if is_view else tensor
    return weights


def write_portable_config(config: LlavaConfig, folder: Path) -> None:
    """config.json with what readers of either major version look for."""
    config.architectures = [classes(getattr(config, "projector_type", None))[1].__name__]
    config.save_pretrained(folder)
    path = folder / "config.json"
    written = json.loads(path.read_text())
    text = written["text_config"]
    for part in (text, written["vision_config"]):
        part.pop("_name_or_path", None)  # where the part lay on this computer
    # 4.57 looks for rope_theta and falls back to 10,000 without it.
    rope = text.get("rope_parameters", {})
    text.setdefault("rope_theta", rope.get("rope_theta", 10000.0))
    if rope.get("rope_type", "default") != "default":
        text.setdefault("rope_scaling", rope)
    written["torch_dtype"] = written.get("dtype")
    path.write_text(json.dumps(written, indent=2, sort_keys=True) + "\n")


def save_part(vlm: Any, part: str, folder: Path, processor_from: Path) -> None:
    """One part of a LLaVA model as a checkpoint of its own: `vision` with its preprocessing, `language` with its
    tokenizer. The inverse of `assemble`."""
    with replacing_folder(folder) as partial:
        if part == "vision":
            tower = _model_class(Tower, vlm.config.vision_config.model_type)(vlm.config.vision_config)
            inner = getattr(tower, "vision_model", tower)
            inner.load_state_dict(vlm.model.vision_tower.state_dict())
            tower.to(vlm.dtype).save_pretrained(partial)
            AutoImageProcessor.from_pretrained(processor_from, backend="pil").save_pretrained(partial)
        else:
            language = _model_class(Language, vlm.config.text_config.model_type)(vlm.config.text_config)
            language.model.load_state_dict(vlm.model.language_model.state_dict())
            language.lm_head.load_state_dict(vlm.lm_head.state_dict())
            language.to(vlm.dtype).save_pretrained(partial)
            for name in PROCESSOR_FILES[:6]:
                if (processor_from / name).is_file():
                    shutil.copyfile(processor_from / name, partial / name)
