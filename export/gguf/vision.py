"""The picture side's GGUF file (llama.cpp's "mmproj"): tower and projector, architecture `clip`.

Keys and tensor names: llama.cpp's tools/mtmd/clip-impl.h. Traps that this writer avoids:
- only the blocks up to the feature layer are written, and `feature_layer` says so: without the key a shortened file is wrong;
- the norm after the last block is left out, because llama.cpp applies it wherever it finds it, and LLaVA doesn't;
- `use_gelu` is the tanh form; without the key llama.cpp takes CLIP's quick form.
"""

from __future__ import annotations

from pathlib import Path

from switchkd.errors import CheckpointError
from switchkd.export.checkpoint import Checkpoint
from switchkd.export.gguf.writer import Placed, new_writer, write_tensors

_ACTIVATIONS = {"gelu_pytorch_tanh": True, "gelu": True, "quick_gelu": False}  # → clip.use_gelu
_MATRICES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_out": "self_attn.out_proj",
}


def check_vision(checkpoint: Checkpoint) -> None:
    """Raises CheckpointError for a tower that llama.cpp would run wrongly, naming the reason."""
    vision, folder = checkpoint.vision, checkpoint.folder
    if vision["hidden_act"] not in _ACTIVATIONS:
        known = ", ".join(_ACTIVATIONS)
        raise CheckpointError(
            f"The tower of {folder} has the activation '{vision['hidden_act']}'; llama.cpp has {known}."
        )
    if vision["intermediate_size"] == vision["hidden_size"]:
        raise CheckpointError(
            f"The tower of {folder} has intermediate_size = hidden_size = {vision['hidden_size']}, "
            "in which case llama.cpp takes the two feed-forward matrices for one another."
        )
    if vision["hidden_size"] % vision["num_attention_heads"]:
        raise CheckpointError(f"The tower of {folder}: hidden_size isn't a multiple of num_attention_heads.")
    if abs(255 * checkpoint.preprocess.rescale_factor - 1) > 1e-6:
        raise CheckpointError(
            f"{folder} rescales pixels by {checkpoint.preprocess.rescale_factor}; llama.cpp by 1/255."
        )


def vision_tensors(checkpoint: Checkpoint) -> dict[str, Placed]:
    """Where every tensor of tower and projector goes: name in the file → tensor of the checkpoint."""
    vision, width = checkpoint.vision, checkpoint.vision["hidden_size"]
    ffn, patch, text_width = vision["intermediate_size"], vision["patch_size"], checkpoint.text["hidden_size"]
    positions = checkpoint.image_tokens + checkpoint.is_clip
    embeddings = "vision_tower.embeddings."
    placed = {
        "v.patch_embd.weight": Placed(f"{embeddings}patch_embedding.weight", (width, 3, patch, patch)),
        "v.position_embd.weight": Placed(f"{embeddings}position_embedding.weight", (positions, width), exact=True),
    }
    if checkpoint.is_clip:
        placed["v.class_embd"] = Placed(f"{embeddings}class_embedding", (width,), exact=True)
        placed |= _pair("v.pre_ln", "vision_tower.pre_layrnorm", (width,), exact=True)  # CLIP's own spelling
    else:
        placed["v.patch_embd.bias"] = Placed(f"{embeddings}patch_embedding.bias", (width,), exact=True)
    for layer in range(checkpoint.used_layers):
        source, target = f"vision_tower.encoder.layers.{layer}.", f"v.blk.{layer}."
        for norm in (1, 2):
            placed |= _pair(f"{target}ln{norm}", f"{source}layer_norm{norm}", (width,), exact=True)
        for short, long in _MATRICES.items():
            placed |= _pair(f"{target}{short}", f"{source}{long}", (width, width))
        placed |= _pair(f"{target}ffn_up", f"{source}mlp.fc1", (ffn, width))
        placed |= _pair(f"{target}ffn_down", f"{source}mlp.fc2", (width, ffn))
    placed |= _pair("mm.0", "multi_modal_projector.linear_1", (text_width, width))
    return placed | _pair("mm.2", "multi_modal_projector.linear_2", (text_width, text_width))


def write_vision(checkpoint: Checkpoint, path: Path, precision: str) -> None:
    """Writes tower and projector in `precision` f16 or f32."""
    vision, preprocess = checkpoint.vision, checkpoint.preprocess
    writer = new_writer(path, "clip", checkpoint.folder.name, precision)
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_string("clip.projector_type", "mlp")
    writer.add_bool("clip.use_gelu", _ACTIVATIONS[vision["hidden_act"]])
    for key, value in {
        "image_size": vision["image_size"],
        "patch_size": vision["patch_size"],
        "embedding_length": vision["hidden_size"],
        "feed_forward_length": vision["intermediate_size"],
        "projection_dim": checkpoint.text["hidden_size"],
        "block_count": checkpoint.used_layers,
        "attention.head_count": vision["num_attention_heads"],
    }.items():
        writer.add_uint32(f"clip.vision.{key}", value)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", vision["layer_norm_eps"])
    writer.add_array("clip.vision.image_mean", list(preprocess.mean))
    writer.add_array("clip.vision.image_std", list(preprocess.std))
    writer.add_array("clip.vision.feature_layer", [checkpoint.used_layers])
    write_tensors(writer, checkpoint, vision_tensors(checkpoint), precision)


def _pair(target: str, source: str, weight: tuple[int, ...], *, exact: bool = False) -> dict[str, Placed]:
    """A weight and its bias, which has as many values as the weight has rows."""
    return {
        f"{target}.weight": Placed(f"{source}.weight", weight, exact),
        f"{target}.bias": Placed(f"{source}.bias", weight[:1], exact=True),
    }
