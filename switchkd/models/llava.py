"""LLaVA with a projector that transformers' own class can't hold. Importing this module tells transformers of it: from then on
AutoConfig, AutoModelForImageTextToText and AutoProcessor read such a folder as any other."""

from __future__ import annotations

from typing import Any

from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)
from transformers.conversion_mapping import get_checkpoint_conversion_mapping, register_checkpoint_conversion_mapping
from transformers.processing_utils import MultiModalData

from switchkd.architecture.architecture import PROJECTOR, Architecture, require_family
from switchkd.architecture.config_json import LLAVA, OWN
from switchkd.architecture.family import Projector


class SwitchkdLlavaConfig(LlavaConfig):
    """LLaVA's settings, with `projector_type` and what that family is set by."""

    model_type = OWN


class SwitchkdLlavaForConditionalGeneration(LlavaForConditionalGeneration):
    """LLaVA with the projector of the configuration's family.

    Raises:
        CheckpointError: the family isn't known, or can't read what the tower gives it.
    """

    config_class = SwitchkdLlavaConfig

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        of = Architecture.of(config.to_dict())
        if of.projector.module is not None:  # else it is what transformers has made
            width = of.text["hidden_size"]
            self.model.multi_modal_projector = of.projector.module(of.feature_width, width, of.projection)


class SwitchkdLlavaProcessor(LlavaProcessor):
    """LLaVA's, for a picture that becomes another number of tokens than its patches.

    Args:
        image_seq_length: that number.
        others: see LlavaProcessor.
    """

    def __init__(  # transformers reads the arguments' names and keeps what they are in the processor's file
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        patch_size: int | None = None,
        vision_feature_select_strategy: str | None = None,
        chat_template: str | None = None,
        image_token: str = "<image>",
        num_additional_image_tokens: int = 0,
        image_seq_length: int = 0,
        **others: Any,
    ) -> None:
        self.image_seq_length = image_seq_length
        super().__init__(
            image_processor,
            tokenizer,
            patch_size,
            vision_feature_select_strategy,
            chat_template,
            image_token,
            num_additional_image_tokens,
            **others,
        )

    def replace_image_token(self, image_inputs: dict, image_idx: int, **_: Any) -> str:
        """What stands for one picture in the text."""
        return self.image_token * self.image_seq_length

    def _get_num_multimodal_tokens(self, image_sizes: Any = None, **_: Any) -> MultiModalData:
        if image_sizes is None:
            return MultiModalData()
        count = len(image_sizes)
        return MultiModalData(num_image_tokens=[self.image_seq_length] * count, num_image_patches=[1] * count)


def classes(
    projector: str | None,
) -> tuple[type[LlavaConfig], type[LlavaForConditionalGeneration], type[LlavaProcessor]]:
    """Configuration, model and processor of a projector's family: transformers' own where they can hold it.

    Raises:
        CheckpointError: the family isn't known.
    """
    family = require_family(Projector, projector or PROJECTOR, "The projector of this model")
    if family.module is None:
        return LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor
    return SwitchkdLlavaConfig, SwitchkdLlavaForConditionalGeneration, SwitchkdLlavaProcessor


AutoConfig.register(OWN, SwitchkdLlavaConfig, exist_ok=True)
AutoModelForImageTextToText.register(SwitchkdLlavaConfig, SwitchkdLlavaForConditionalGeneration, exist_ok=True)
AutoProcessor.register(SwitchkdLlavaConfig, SwitchkdLlavaProcessor, exist_ok=True)
register_checkpoint_conversion_mapping(OWN, get_checkpoint_conversion_mapping(LLAVA), overwrite=True)
