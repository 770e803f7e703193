"""The transformer blocks that SigLIP's and CLIP's towers share. GGUF: llama.cpp's tools/mtmd/clip-impl.h."""

from switchkd.architecture.family import Weight, affine, norm

PREFIX = "vision_tower."
PREFIXES = ("encoder.layers.{layer}.", "v.blk.{layer}.")
EMBEDDINGS = (
    Weight("embeddings.patch_embedding.weight", ("width", 3, "patch", "patch"), "v.patch_embd.weight"),
    Weight("embeddings.position_embedding.weight", ("positions", "width"), "v.position_embd.weight", exact=True),
)
_MATRICES = (("attn_q", "q_proj"), ("attn_k", "k_proj"), ("attn_v", "v_proj"), ("attn_out", "out_proj"))
BLOCK = (
    *norm("layer_norm1", "ln1"),
    *norm("layer_norm2", "ln2"),
    *(weight for target, source in _MATRICES for weight in affine(f"self_attn.{source}", target, "width", "width")),
    *affine("mlp.fc1", "ffn_up", "feed_forward", "width"),
    *affine("mlp.fc2", "ffn_down", "width", "feed_forward"),
)
UNUSED = ("head", "post_layernorm", "embeddings.position_ids")
DEFAULTS = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
}
