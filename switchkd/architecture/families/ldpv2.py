"""MobileVLM V2's projector LDPv2 (arXiv 2402.03766): two layers, 2 × 2 patches averaged, and a 3 × 3 filter of each channel
added to what it reads. Names of tensors as in its checkpoints, behind LLaVA's prefix. GGUF: llama.cpp's tools/mtmd."""

from collections import OrderedDict
from typing import Any

from switchkd.architecture.families.layers import PREFIX
from switchkd.architecture.family import Projector, Refusal, Settings, Weight, affine

_POOL = 2
_GGUF_SIDE = 24


def module(features: int, width: int, settings: Settings) -> Any:
    """[I, P, features] → [I, P / 4, width]."""
    from torch import nn

    from switchkd.models.grid import Grid, Plus, Tokens

    layers = nn.Sequential(nn.Linear(features, width), nn.GELU(), nn.Linear(width, width))
    peg = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, groups=width))
    steps = OrderedDict(
        mlp=nn.Sequential(OrderedDict(mlp=layers)),
        grid=Grid(settings["grid"]),
        pool=nn.AvgPool2d(_POOL),
        peg=Plus(OrderedDict(peg=peg)),
        tokens=Tokens(),
    )
    return nn.Sequential(steps)


FAMILY = Projector(
    name="ldpv2",
    title="LDPv2",
    prefix=PREFIX,
    before=(
        *affine("mlp.mlp.0", "mm.model.mlp.0", "width", "features"),
        *affine("mlp.mlp.2", "mm.model.mlp.2", "width", "width"),
    ),
    after=(
        Weight("peg.peg.0.weight", ("width", 1, 3, 3), "mm.model.peg.0.weight", half=True),
        Weight("peg.peg.0.bias", ("width",), "mm.model.peg.0.bias", exact=True),
    ),
    refusals=(
        Refusal(
            f"another grid than {_GGUF_SIDE} × {_GGUF_SIDE} patches, which llama.cpp takes for granted",
            lambda settings: settings["grid"] != _GGUF_SIDE,
            f"{{folder}} has {{grid}} patches along a picture's side; llama.cpp's LDPv2 takes {_GGUF_SIDE} for granted, "
            "as of 336 pixels in patches of 14.",
            format="gguf",
        ),
    ),
    gguf_type="ldpv2",
    module=module,
    tokens=lambda settings: (settings["grid"] // _POOL) ** 2,
    needs=(
        Refusal(
            "an odd number of patches along a side",
            lambda settings: settings["grid"] % _POOL > 0,
            "{folder} has {grid} patches along a picture's side; LDPv2 averages them two by two and needs an even number.",
        ),
    ),
)
