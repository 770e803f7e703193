"""SigLIP's vision tower (arXiv 2303.15343): patches alone, and a pooling head that no feature comes from."""

from switchkd.architecture.families import encoder
from switchkd.architecture.family import Tower, Weight

FAMILY = Tower(
    name="siglip_vision_model",
    title="SigLIP",
    prefix=encoder.PREFIX,
    before=(
        *encoder.EMBEDDINGS,
        Weight("embeddings.patch_embedding.bias", ("width",), "v.patch_embd.bias", exact=True),
    ),
    block=encoder.BLOCK,
    blocks=encoder.PREFIXES,
    defaults={**encoder.DEFAULTS, "patch_size": 16, "layer_norm_eps": 1e-6, "hidden_act": "gelu_pytorch_tanh"},
    model_class="SiglipVisionModel",
    processor_class="SiglipImageProcessor",
    # It stretches to the exact size with a bicubic filter.
    processor=lambda side: {
        "size": {"height": side, "width": side},
        "resample": 3,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    },
    unused=encoder.UNUSED,
    settings={"vision_use_head": False},
)
