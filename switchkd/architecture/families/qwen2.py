"""Qwen2 and Qwen2.5 (arXiv 2412.15115): biases on queries, keys and values, a gated feed-forward part.

GGUF: github.com/ggml-org/ggml/blob/master/docs/gguf.md and llama.cpp's src/llama-arch.cpp, its tokenizers in
src/llama-vocab.cpp.
"""

from switchkd.architecture.family import Language, Refusal, Weight, affine

FAMILY = Language(
    name="qwen2",
    title="Qwen2",
    prefix="language_model.",
    before=(Weight("embed_tokens.weight", ("rows", "width"), "token_embd.weight"),),
    block=(
        Weight("input_layernorm.weight", ("width",), "attn_norm.weight", exact=True),
        *affine("self_attn.q_proj", "attn_q", "queries", "width"),
        *affine("self_attn.k_proj", "attn_k", "keys", "width"),
        *affine("self_attn.v_proj", "attn_v", "keys", "width"),
        Weight("self_attn.o_proj.weight", ("width", "queries"), "attn_output.weight"),
        Weight("post_attention_layernorm.weight", ("width",), "ffn_norm.weight", exact=True),
        Weight("mlp.gate_proj.weight", ("feed_forward", "width"), "ffn_gate.weight"),
        Weight("mlp.up_proj.weight", ("feed_forward", "width"), "ffn_up.weight"),
        Weight("mlp.down_proj.weight", ("width", "feed_forward"), "ffn_down.weight"),
    ),
    after=(Weight("norm.weight", ("width",), "output_norm.weight", exact=True),),
    blocks=("layers.{layer}.", "blk.{layer}."),
    defaults={
        "vocab_size": 151936,
        "hidden_size": 4096,
        "intermediate_size": 22016,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "max_position_embeddings": 32768,
        "hidden_act": "silu",
        "use_sliding_window": False,
    },
    refusals=(
        Refusal(
            "scaled rotary positions",
            lambda settings: settings["rope_type"] != "default",
            "{folder} scales its positions ({rope_type}); that isn't supported.",
        ),
        Refusal(
            "attention through a sliding window",
            lambda settings: bool(settings["use_sliding_window"]),
            "{folder} attends through a sliding window; that isn't supported.",
        ),
        Refusal(
            "another activation than SiLU",
            lambda settings: settings["hidden_act"] != "silu",
            "The language model of {folder} has the activation '{hidden_act}', not silu.",
        ),
        Refusal(
            "heads of another width than hidden_size / num_attention_heads",
            lambda settings: settings["head_width"] * settings["num_attention_heads"] != settings["hidden_size"],
            "{folder} has heads of {head_width}, and llama.cpp's qwen2 takes none but hidden_size / num_attention_heads.",
            format="gguf",
        ),
    ),
    model_class="Qwen2ForCausalLM",
    gguf_architecture="qwen2",
    gguf_splits={
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+": "qwen2"
    },
)
