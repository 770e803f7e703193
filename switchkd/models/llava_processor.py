"""What stands beside a LLaVA model's weights: tokenizer, chat template and preprocessing, together transformers' processor."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import transformers
from transformers import (
    AutoImageProcessor,
    AutoTokenizer,
    LlavaProcessor,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from switchkd.architecture.architecture import Architecture, require_family
from switchkd.architecture.family import Tower
from switchkd.chat_template import shipped_template
from switchkd.errors import CheckpointError, first_line
from switchkd.models.llava import classes
from switchkd.models.tokenizer import TURN_END
from switchkd.preprocess import PADDING


def new_processor(
    config: Any, image_processor: Any, tokenizer: PreTrainedTokenizerBase, template: str | None = None
) -> LlavaProcessor:
    """The processor of a model of this configuration; `template` as for `assemble`.

    Raises:
        CheckpointError: a template that isn't known.
    """
    of = Architecture.of(config.to_dict())
    *_, processor_class = classes(getattr(config, "projector_type", None))
    counted = {"image_seq_length": of.image_tokens} if processor_class is not LlavaProcessor else {}
    usual = "chatml" if TURN_END in tokenizer.get_vocab() else "vicuna"
    return processor_class(
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=config.vision_config.patch_size,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        image_token=tokenizer.convert_ids_to_tokens(config.image_token_id),
        num_additional_image_tokens=int(of.tower.class_token),
        chat_template=shipped_template(template or usual),
        **counted,  # transformers' own counts patches
    )


def default_image_processor(vision_config: Any) -> Any:
    """The image processor that belongs to a tower of this family and size."""
    tower = require_family(Tower, vision_config.model_type, "The vision part")
    return _processor_class(tower.processor_class)(**tower.processor(vision_config.image_size))


def on_square(processor: Any) -> Any:
    """An image processor of the same sizes and colours that pastes a picture on a square of the mean's colour first."""
    given = processor.to_dict()
    kept = ("size", "crop_size", "resample", "rescale_factor", "image_mean", "image_std")
    settings = {name: given[name] for name in kept if given.get(name) is not None}
    return _processor_class(PADDING)(**settings, do_center_crop=bool(given.get("do_center_crop")), do_pad=True)


def _processor_class(name: str) -> Any:
    """transformers' image processor of this name that computes with Pillow; by the name alone it looks for torchvision first."""
    return getattr(transformers, f"{name}Pil", None) or getattr(transformers, name)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint folder.

    Raises:
        CheckpointError: there is none, or none that can be read.
    """
    # A class of a family's name builds its tokenizer anew, and Llama's then sees other spaces than the file's.
    kind = PreTrainedTokenizerFast if (folder / "tokenizer.json").is_file() else AutoTokenizer
    try:
        return kind.from_pretrained(folder, local_files_only=True)
    except Exception as error:
        raise CheckpointError(f"{folder} has no usable tokenizer: {first_line(error)}") from error


def load_image_processor(folder: Path) -> Any | None:
    """The image processor of a vision checkpoint, or None where the folder brings none."""
    if not (folder / "preprocessor_config.json").exists() and not (folder / "processor_config.json").exists():
        return None
    return AutoImageProcessor.from_pretrained(folder, local_files_only=True, backend="pil")


PROCESSOR_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "processor_config.json",
    "preprocessor_config.json",
)


def save_processor(processor: LlavaProcessor, folder: Path) -> None:
    """Tokenizer, chat template and preprocessing; the image part also in the file that 4.57 reads."""
    processor.save_pretrained(folder)
    processor.image_processor.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    written = json.loads(path.read_text(encoding="utf-8"))
    if written.get("tokenizer_class") == "TokenizersBackend":  # 4.57 knows it by its older name only
        written["tokenizer_class"] = "PreTrainedTokenizerFast"
        path.write_text(json.dumps(written, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def copy_processor(source: Path, target: Path) -> None:
    """The same files, byte by byte, from another model folder."""
    for name in PROCESSOR_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
