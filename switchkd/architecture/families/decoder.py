"""What the language models of Llama's kind share: norms by root mean square, rotary positions, a gated feed-forward part.

GGUF: github.com/ggml-org/ggml/blob/master/docs/gguf.md and llama.cpp's src/llama-arch.cpp.
"""

from switchkd.architecture.family import Refusal, Weight

PREFIX = "language_model."
PREFIXES = ("layers.{layer}.", "blk.{layer}.")
EMBEDDING = Weight("embed_tokens.weight", ("rows", "width"), "token_embd.weight")
NORM = Weight("norm.weight", ("width",), "output_norm.weight", exact=True)
ATTENTION_NORM = Weight("input_layernorm.weight", ("width",), "attn_norm.weight", exact=True)
QUERIES = Weight("self_attn.q_proj.weight", ("queries", "width"), "attn_q.weight")
KEYS = Weight("self_attn.k_proj.weight", ("keys", "width"), "attn_k.weight")
VALUES = Weight("self_attn.v_proj.weight", ("keys", "width"), "attn_v.weight")
OUTPUT = Weight("self_attn.o_proj.weight", ("width", "queries"), "attn_output.weight")
FEED_FORWARD = (
    Weight("post_attention_layernorm.weight", ("width",), "ffn_norm.weight", exact=True),
    Weight("mlp.gate_proj.weight", ("feed_forward", "width"), "ffn_gate.weight"),
    Weight("mlp.up_proj.weight", ("feed_forward", "width"), "ffn_up.weight"),
    Weight("mlp.down_proj.weight", ("width", "feed_forward"), "ffn_down.weight"),
)


def scaled_positions(*known: str) -> Refusal:
    """That of rotary positions which are scaled in another way than these."""
    return Refusal(
        "scaled rotary positions" + (f" other than {', '.join(known)}" if known else ""),
        lambda settings: settings["rope_type"] not in ("default", *known),
        "{folder} scales its positions ({rope_type}); that isn't supported.",
    )


SLIDING_WINDOW = Refusal(
    "attention through a sliding window",
    lambda settings: bool(settings["use_sliding_window"]),
    "{folder} attends through a sliding window; that isn't supported.",
)
ACTIVATION = Refusal(
    "another activation than SiLU",
    lambda settings: settings["hidden_act"] != "silu",
    "The language model of {folder} has the activation '{hidden_act}', not silu.",
)

REFUSALS = (scaled_positions(), ACTIVATION)


def unbiased(name: str) -> Refusal:
    """That of biases which a setting of this name adds to matrices."""
    return Refusal(
        f"biases ({name})",
        lambda settings: bool(settings[name]),
        f"The language model of {{folder}} has biases ({name}); that isn't supported.",
    )
