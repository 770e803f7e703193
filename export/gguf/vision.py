"""The picture side's GGUF file (llama.cpp's "mmproj"): tower and projector, architecture `clip`.

Keys and tensor names: llama.cpp's tools/mtmd/clip-impl.h. Traps that this writer avoids:
- only the blocks up to the feature layer are written, and `feature_layer` says so: without the key a shortened file is wrong;
- the norm after the last block is left out, because llama.cpp applies it wherever it finds it, and LLaVA doesn't;
- `use_gelu` is the tanh form; without the key llama.cpp takes CLIP's quick form.
"""

from __future__ import annotations

from pathlib import Path

from switchkd.architecture.family import Refusal, refuse
from switchkd.export.checkpoint import Checkpoint
from switchkd.export.gguf.writer import new_writer, write_tensors

_ACTIVATIONS = {"gelu_pytorch_tanh": True, "gelu": True, "quick_gelu": False}  # → clip.use_gelu


# Towers that llama.cpp would run wrongly.
REFUSALS = (
    Refusal(
        "an activation that llama.cpp doesn't have",
        lambda settings: settings["hidden_act"] not in _ACTIVATIONS,
        f"The tower of {{folder}} has the activation '{{hidden_act}}'; llama.cpp has {', '.join(_ACTIVATIONS)}.",
    ),
    Refusal(
        "intermediate_size = hidden_size: it takes the two feed-forward matrices for one another",
        lambda settings: settings["intermediate_size"] == settings["hidden_size"],
        "The tower of {folder} has intermediate_size = hidden_size = {hidden_size}, in which case llama.cpp takes the two "
        "feed-forward matrices for one another.",
    ),
    Refusal(
        "hidden_size that isn't a multiple of num_attention_heads",
        lambda settings: settings["hidden_size"] % settings["num_attention_heads"] > 0,
        "The tower of {folder}: hidden_size isn't a multiple of num_attention_heads.",
    ),
    Refusal(
        "pixels that are rescaled by another factor than 1/255",
        lambda settings: abs(255 * settings["rescale_factor"] - 1) > 1e-6,
        "{folder} rescales pixels by {rescale_factor}; llama.cpp by 1/255.",
    ),
    Refusal(
        "a class token that is passed on (vision_feature_select_strategy 'full' of a tower that has one)",
        lambda settings: settings["passes_class_token"],
        "{folder} passes the tower's class token on (vision_feature_select_strategy 'full'); llama.cpp passes patches alone: "
        "export to onnx.",
    ),
)


def check_vision(checkpoint: Checkpoint) -> None:
    """Raises CheckpointError for a tower that llama.cpp would run wrongly, naming the reason."""
    of = checkpoint.architecture
    more = {
        "rescale_factor": checkpoint.preprocess.rescale_factor,
        "passes_class_token": of.tower.class_token and of.select_strategy != of.patches_alone,
    }
    refuse(REFUSALS, checkpoint.vision | more, checkpoint.folder)


def write_vision(checkpoint: Checkpoint, path: Path, precision: str) -> None:
    """Writes tower and projector in `precision` f16 or f32."""
    architecture, preprocess = checkpoint.architecture, checkpoint.preprocess
    projector, vision, used = architecture.projector, architecture.vision, architecture.used_layers
    writer = new_writer(path, "clip", checkpoint.folder.name, precision)
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_string("clip.projector_type", projector.gguf_type)
    writer.add_bool("clip.use_gelu", _ACTIVATIONS[vision["hidden_act"]])
    for key, value in {
        "image_size": vision["image_size"],
        "patch_size": vision["patch_size"],
        "embedding_length": vision["hidden_size"],
        "feed_forward_length": vision["intermediate_size"],
        "projection_dim": checkpoint.text["hidden_size"],
        "block_count": used,
        "attention.head_count": vision["num_attention_heads"],
        **{key: architecture.projection[name] for name, key in projector.gguf_keys.items()},
    }.items():
        writer.add_uint32(f"clip.vision.{key}", value)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", vision["layer_norm_eps"])
    writer.add_array("clip.vision.image_mean", list(preprocess.mean))
    writer.add_array("clip.vision.image_std", list(preprocess.std))
    writer.add_array("clip.vision.feature_layer", [used])
    write_tensors(writer, checkpoint, checkpoint.vision_tensors, precision)
