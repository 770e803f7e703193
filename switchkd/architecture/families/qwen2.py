"""Qwen2 and Qwen2.5 (arXiv 2412.15115), and Qwen1.5: biases on queries, keys and values, a gated feed-forward part."""

from switchkd.architecture.families import decoder
from switchkd.architecture.family import Language, Refusal, affine

FAMILY = Language(
    name="qwen2",
    title="Qwen2",
    prefix=decoder.PREFIX,
    before=(decoder.EMBEDDING,),
    block=(
        decoder.ATTENTION_NORM,
        *affine("self_attn.q_proj", "attn_q", "queries", "width"),
        *affine("self_attn.k_proj", "attn_k", "keys", "width"),
        *affine("self_attn.v_proj", "attn_v", "keys", "width"),
        decoder.OUTPUT,
        *decoder.FEED_FORWARD,
    ),
    after=(decoder.NORM,),
    blocks=decoder.PREFIXES,
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
        *decoder.REFUSALS,
        decoder.SLIDING_WINDOW,
        Refusal(
            "heads of another width than hidden_size / num_attention_heads",
            lambda settings: settings["head_width"] * settings["num_attention_heads"] != settings["hidden_size"],
            "{folder} has heads of {head_width}, and llama.cpp's qwen2 takes none but hidden_size / num_attention_heads.",
            format="gguf",
        ),
    ),
    model_class="Qwen2ForCausalLM",
    gguf_architecture="qwen2",
)
