"""Patches averaged on their grid, then LLaVA's two layers: fewer tokens of the same features."""

from collections import OrderedDict
from typing import Any

from switchkd.architecture.families import grid
from switchkd.architecture.families.layers import PREFIX, layers
from switchkd.architecture.family import Projector, Settings, affine


def module(features: int, width: int, settings: Settings) -> Any:
    """[I, P, features] → [I, P / factor², width]."""
    from torch import nn

    from switchkd.models.grid import Grid, Tokens

    averaged = OrderedDict(grid=Grid(settings["grid"]), pool=nn.AvgPool2d(settings[grid.FACTOR]), tokens=Tokens())
    return nn.Sequential(averaged | layers(features, width, width))


FAMILY = Projector(
    name="average_pool",
    title="average pooling and two-layer MLP",
    prefix=PREFIX,
    before=(),
    after=(*affine("linear_1", "mm.0", "width", "features"), *affine("linear_2", "mm.2", "width", "width")),
    defaults={grid.FACTOR: 2},
    lacks={"gguf": "llama.cpp averages patches for no projector of two layers"},
    module=module,
    tokens=grid.tokens,
    needs=grid.NEEDS,
)
