"""Three layers with GELU between them, `mlp3x_gelu` of LLaVA's own code."""

from typing import Any

from switchkd.architecture.families.layers import PREFIX, layers
from switchkd.architecture.family import Projector, Settings, affine


def module(features: int, width: int, settings: Settings) -> Any:
    """[I, P, features] → [I, P, width]."""
    from torch import nn

    return nn.Sequential(layers(features, width, width, width))


FAMILY = Projector(
    name="mlp3",
    title="three-layer MLP",
    prefix=PREFIX,
    before=(
        *affine("linear_1", "mm.0", "width", "features"),
        *affine("linear_2", "mm.2", "width", "width"),
        *affine("linear_3", "mm.4", "width", "width"),
    ),
    lacks={"gguf": "llama.cpp's projector has two layers and would leave the third out"},
    module=module,
)
