"""LLaVA's projector (arXiv 2310.03744): two layers with GELU between them."""

from switchkd.architecture.families.layers import PREFIX
from switchkd.architecture.family import Projector, Refusal, affine

FAMILY = Projector(
    name="mlp",
    title="two-layer MLP",
    prefix=PREFIX,
    before=(*affine("linear_1", "mm.0", "width", "features"), *affine("linear_2", "mm.2", "width", "width")),
    defaults={"multimodal_projector_bias": True, "projector_hidden_act": "gelu"},
    refusals=(
        Refusal(
            "no biases",
            lambda settings: not settings["multimodal_projector_bias"],
            "The projector of {folder} has no biases; that isn't supported.",
        ),
        Refusal(
            "another activation than GELU",
            lambda settings: settings["projector_hidden_act"] != "gelu",
            "The projector of {folder} has the activation '{projector_hidden_act}'; only gelu is supported.",
        ),
    ),
    gguf_type="mlp",
)
