"""Names of a LLaVA's tensors. They changed with transformers 5; here they are

vision_tower.{embeddings, encoder.layers.N, …}   multi_modal_projector.{…}   language_model.{…}   lm_head
"""

from __future__ import annotations

import re

# A state dict's prefix → the one that every transformers reads: 4.57 takes newer names for an unknown tower, and initialises it
# at random with no more than a warning.
PORTABLE = {
    "model.vision_tower.": "vision_tower.vision_model.",
    "model.multi_modal_projector.": "multi_modal_projector.",
    "model.language_model.": "language_model.model.",
    "lm_head.": "language_model.lm_head.",
}


def plain_name(name: str) -> str:
    """The one spelling of a tensor's name, from transformers 4's, 5's or a state dict's."""
    name = name.removeprefix("model.")
    name = re.sub(r"^vision_tower\.vision_model\.", "vision_tower.", name)
    name = re.sub(r"^language_model\.lm_head\.", "lm_head.", name)
    return re.sub(r"^language_model\.model\.", "language_model.", name)


def portable_name(name: str) -> str:
    """The name in a file that every transformers reads, from a state dict's."""
    prefix = next(prefix for prefix in PORTABLE if name.startswith(prefix))
    return PORTABLE[prefix] + name.removeprefix(prefix)
