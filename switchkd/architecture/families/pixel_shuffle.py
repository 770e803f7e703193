"""Neighbouring patches joined to one token, then one layer without bias, as in Idefics3 and SmolVLM (arXiv 2408.12637), or two
with GELU between them. GGUF: llama.cpp's tools/mtmd, projectors `idefics3` and
`lfm2`."""

from collections import OrderedDict
from dataclasses import replace
from typing import Any

from switchkd.architecture.families import grid
from switchkd.architecture.families.layers import PREFIX, layers
from switchkd.architecture.family import Projector, Refusal, Settings, Weight, affine


def module(features: int, width: int, settings: Settings) -> Any:
    """[I, P, features] → [I, P / factor², width]."""
    from torch import nn

    from switchkd.models.grid import Shuffle

    factor = settings[grid.FACTOR]
    joined = features * factor**2
    steps: OrderedDict[str, Any] = OrderedDict(shuffle=Shuffle(settings["grid"], factor))
    if settings[grid.LAYERS] == 1:
        steps["linear_1"] = nn.Linear(joined, width, bias=False)
    else:
        steps |= layers(joined, width, width)
    return nn.Sequential(steps)


def _is_resized(settings: Settings) -> bool:
    """Whether llama.cpp would make a picture of the tower's size another one, in front of two layers."""
    cut = settings["image_size"] % settings["patch_size"]
    return settings[grid.LAYERS] == 2 and bool(cut or not _FEWEST <= grid.tokens(settings) <= _MOST)


_FEWEST, _MOST = 64, 256  # tokens of a picture, to which llama.cpp resizes in front of two layers
_ONE = Projector(
    name="pixel_shuffle",
    title="pixel shuffle",
    prefix=PREFIX,
    before=(),
    after=(Weight("linear_1.weight", ("width", "joined"), "mm.model.fc.weight"),),
    defaults={grid.FACTOR: 2, grid.LAYERS: 1},
    refusals=(
        Refusal(
            "a tower with a class token, for which llama.cpp's graph has no place",
            lambda settings: settings["class_token"],
            "The tower of {folder} has a class token; llama.cpp's pixel shuffle takes none.",
            format="gguf",
        ),
        Refusal(
            f"two layers, and fewer than {_FEWEST} or more than {_MOST} tokens a picture, or a side that isn't a multiple of its "
            "patches: llama.cpp resizes such pictures",
            _is_resized,
            f"{{folder}} has two layers behind its pixel shuffle; in front of those llama.cpp resizes pictures to {_FEWEST} to "
            f"{_MOST} tokens of whole patches, which one of {{image_size}} pixels in patches of {{patch_size}} isn't: "
            "export to onnx.",
            format="gguf",
        ),
    ),
    gguf_type="idefics3",
    gguf_keys={grid.FACTOR: "projector.scale_factor"},
    module=module,
    tokens=grid.tokens,
    needs=(*grid.NEEDS, grid.one_of(grid.LAYERS, (1, 2))),
)
_TWO = replace(
    _ONE,
    after=(*affine("linear_1", "mm.1", "width", "joined"), *affine("linear_2", "mm.2", "width", "width")),
    gguf_type="lfm2",
)
FAMILY = replace(_ONE, variant=lambda settings: _ONE if settings[grid.LAYERS] == 1 else _TWO)
