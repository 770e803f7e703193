"""LLaVA with a projector of a family's own in the place of transformers' two layers."""

from __future__ import annotations

from typing import Any

from transformers import LlavaForConditionalGeneration

from switchkd.architecture.architecture import PROJECTOR, require_family
from switchkd.architecture.family import Projector


def llava_class(config: Any) -> type[LlavaForConditionalGeneration]:
    """The class whose models have the projector of a configuration's family.

    Raises:
        CheckpointError: the family isn't known.
    """
    family = require_family(Projector, getattr(config, "projector_type", PROJECTOR), "The projector of this model")
    make, plain = family.module, LlavaForConditionalGeneration
    if make is None:
        return plain

    def init(self: Any, config: Any) -> None:
        plain.__init__(self, config)
        ends = self.model.multi_modal_projector.linear_1
        self.model.multi_modal_projector = make(ends.in_features, ends.out_features)

    # Under another name, or from another module, transformers would look for the weights under other names.
    return type(plain.__name__, (plain,), {"__init__": init, "__module__": plain.__module__})
