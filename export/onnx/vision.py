"""Tower and projector as ONNX, by PyTorch's own exporter."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from switchkd.export.checkpoint import Checkpoint
from switchkd.export.onnx.graph import OPSET, save_graph
from switchkd.runtime.engines.pytorch import quiet_transformers

if TYPE_CHECKING:
    from torch import Tensor

_ATTENTION = "onnxruntime"  # under which transformers knows it
FEATURES = "vision_features"  # what the projector reads: a name inside the graph


def write_vision(checkpoint: Checkpoint, path: Path) -> None:
    """Writes pixel_values [B, 3, H, W] → image_features [B, P, W], float32."""
    import torch
    from transformers import AttentionInterface

    from switchkd.models.switch import vision_features
    from switchkd.models.vlm import load_vlm

    class Pathway(torch.nn.Module):
        """Pixels to projected tokens, as one module."""

        def __init__(self, vlm: Any) -> None:
            super().__init__()
            self.vlm = vlm

        def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            features = vision_features(self.vlm, pixel_values)  # [B, P, W_v]
            return self.vlm.model.multi_modal_projector(features), features

    with quiet_transformers():
        vlm = load_vlm(checkpoint.folder).eval()
    AttentionInterface.register(_ATTENTION, _fused_attention)
    vlm.model.vision_tower.set_attn_implementation(_ATTENTION)
    side = checkpoint.vision["image_size"]
    with _quiet_torch():
        program = torch.onnx.export(
            Pathway(vlm).eval(),
            (torch.zeros(2, 3, side, side),),
            dynamo=True,
            input_names=["pixel_values"],
            output_names=["image_features", FEATURES],
            dynamic_shapes=({0: torch.export.Dim("batch_size")},),
            opset_version=OPSET,
        )
    assert program is not None
    model = program.model
    model.graph.outputs.pop()  # the value keeps its name inside
    save_graph(model, path)


def write_traced(path: Path, traced: Path) -> None:
    """Writes a copy whose projector input is an output too."""
    import onnx_ir as ir

    model = ir.load(path)
    (features,) = [value for node in model.graph for value in node.outputs if value.name == FEATURES]
    model.graph.outputs.append(features)
    save_graph(model, traced)


def _fused_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, scaling: float, **_: Any
) -> tuple[Tensor, None]:
    """Attention as one node of ONNX Runtime's; written out, it takes half of an int8 tower's time (transformers'
    attention interface): [B, heads, P, D] three times → [B, P, heads, D]."""
    import torch

    assert attention_mask is None, "a tower sees all of its picture"
    batch, heads, patches, width = query.shape
    flat = [states.transpose(1, 2).reshape(batch, patches, heads * width) for states in (query, key, value)]
    output = torch.onnx.ops.symbolic(
        "com.microsoft::MultiHeadAttention",
        flat,
        {"num_heads": heads, "scale": float(scaling)},
        dtype=query.dtype,
        shape=flat[0].shape,
        version=1,
    )
    return output.reshape(batch, patches, heads, width), None


@contextlib.contextmanager
def _quiet_torch() -> Iterator[None]:
    """Without the exporter's progress lines and its notes on packages that this model doesn't need."""
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)
