"""CLIP's vision tower (arXiv 2103.00020): a class token in front of the patches, a norm before the blocks."""

from switchkd.architecture.families import encoder
from switchkd.architecture.family import Tower, Weight, norm

FAMILY = Tower(
    name="clip_vision_model",
    title="CLIP",
    prefix=encoder.PREFIX,
    before=(
        *encoder.EMBEDDINGS,
        Weight("embeddings.class_embedding", ("width",), "v.class_embd", exact=True),
        *norm("pre_layrnorm", "v.pre_ln"),  # its own spelling
    ),
    block=encoder.BLOCK,
    blocks=encoder.PREFIXES,
    defaults={**encoder.DEFAULTS, "patch_size": 32, "layer_norm_eps": 1e-5, "hidden_act": "quick_gelu"},
    model_class="CLIPVisionModel",
    processor_class="CLIPImageProcessor",
    processor=lambda side: {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}},
    crops=True,
    class_token=True,
    unused=encoder.UNUSED,
)
