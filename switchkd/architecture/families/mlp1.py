"""One layer: LLaVA's first projector (arXiv 2304.08485)."""

from typing import Any

from switchkd.architecture.families.layers import PREFIX, layers
from switchkd.architecture.family import Projector, Settings, affine


def module(features: int, width: int, settings: Settings) -> Any:
    """[I, P, features] → [I, P, width]."""
    from torch import nn

    return nn.Sequential(layers(features, width))


FAMILY = Projector(
    name="mlp1",
    title="one layer",
    prefix=PREFIX,
    before=affine("linear_1", "mm.0", "width", "features"),
    lacks={"gguf": "llama.cpp puts a GELU behind the first layer, whether or not there is a second"},
    module=module,
)
