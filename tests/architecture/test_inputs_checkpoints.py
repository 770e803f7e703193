"""docs/inputs.md, row by row: weights of every kind, the same for training, opening and every exporter."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support import checkpoints
from support.inputs_page import asked, rows
from support.llava_models import make_checkpoint
from support.tokenizers import small_tokenizer

from switchkd.architecture.endings import require_learned_end
from switchkd.chat_template import shipped_template
from switchkd.errors import CheckpointError
from switchkd.export.tensors import stored_tensors
from switchkd.models.vlm import load_vlm
from switchkd.prompt import ChatPrompt


def zeros(*names: str, kind: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    return {name: torch.zeros(4, dtype=kind) for name in names}


Change = Callable[[Path], object]
PROJECTION = "language_model.model.layers.0.self_attn.q_proj"

WEIGHTS: dict[str, list[Change]] = {
    "`model.safetensors`": [lambda folder: None],
    "shards with `model.safetensors.index.json`": [checkpoints.shard],
    "older shards beside those that the index names": [
        lambda folder: shutil.copy(folder / checkpoints.shard(folder)[0], folder / "model-00003-of-00003.safetensors"),
        lambda folder: shutil.copy(folder / checkpoints.shard(folder)[1], folder / "consolidated.safetensors"),
        lambda folder: (folder / "model-00001-of-00009.safetensors").write_bytes(
            b"torn" * len(checkpoints.shard(folder))
        ),
    ],
    "position ids as whole numbers": [
        lambda folder: checkpoints.add_tensors(
            folder, zeros("vision_tower.vision_model.embeddings.position_ids", kind=torch.int64)
        )
    ],
    "`model.safetensors` beside an index and its shards": [lambda folder: checkpoints.shard(folder, keep_whole=True)],
    "an index whose shard is missing": [
        lambda folder: (folder / checkpoints.shard(folder)[0]).unlink(),
        lambda folder: (folder / checkpoints.shard(folder)[1]).rename(folder / "model-2.safetensors"),
    ],
    "an index that names a file elsewhere": [
        lambda folder: (folder / checkpoints.INDEX).write_text(
            json.dumps(
                {"weight_map": {"a": f"../{(folder / checkpoints.WHOLE).rename(folder.parent / 'x.safetensors').name}"}}
            )
        ),
    ],
    "shards without an index": [
        lambda folder: checkpoints.shard(folder, index=False),
        lambda folder: (folder / checkpoints.WHOLE).rename(folder / "model-00001-of-00001.safetensors"),
        lambda folder: (folder / checkpoints.WHOLE).rename(folder / "weights.safetensors"),
    ],
    "`pytorch_model.bin` or GGUF alone": [
        lambda folder: (folder / checkpoints.WHOLE).rename(folder / "pytorch_model.bin"),
        lambda folder: (folder / checkpoints.WHOLE).rename(folder / "model.gguf"),
        lambda folder: (folder / checkpoints.WHOLE).unlink(),
    ],
    "a LoRA adapter's folder": [
        lambda folder: (checkpoints.adapter(folder), (folder / checkpoints.WHOLE).unlink()),
        lambda folder: (shutil.rmtree(folder), checkpoints.adapter(folder)),
    ],
    "an adapter's tensors in a model's files": [
        lambda folder: checkpoints.add_tensors(folder, zeros(f"base_model.{PROJECTION}.lora_A.default.weight")),
        lambda folder: checkpoints.add_tensors(folder, zeros(f"{PROJECTION}.lora_B.weight")),
        lambda folder: checkpoints.add_tensors(folder, zeros(f"{PROJECTION}.lora_magnitude_vector")),
    ],
    "quantized by GPTQ, AWQ, bitsandbytes, FP8 … as config.json says": [
        *(
            lambda folder, method=method: checkpoints.configure(folder, quantization_config={"quant_method": method})
            for method in ("gptq", "awq", "bitsandbytes", "fp8", "compressed-tensors")
        ),
        lambda folder: checkpoints.configure(folder, text_config={"quantization_config": {"bits": 4}}),
    ],
    "quantized tensors, whatever config.json says": [
        *(
            lambda folder, name=name, kind=kind: checkpoints.add_tensors(
                folder, zeros(f"{PROJECTION}.{name}", kind=kind)
            )
            for name, kind in (
                ("qweight", torch.int32),
                ("qzeros", torch.int32),
                ("scales", torch.float16),
                ("weight.absmax", torch.float32),
                ("weight.quant_state.bitsandbytes__nf4", torch.uint8),
                ("SCB", torch.float32),
                ("weight_scale_inv", torch.float32),
                ("other", torch.int8),
                ("more", torch.float8_e4m3fn),
            )
        ),
    ],
    "a file that breaks off": [
        lambda folder, keep=keep: (folder / checkpoints.WHOLE).write_bytes(
            (folder / checkpoints.WHOLE).read_bytes()[:keep]
        )
        for keep in (0, 7, 100)
    ],
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("tiny") / "student")


@pytest.mark.parametrize(("row", "outcome"), asked("weights"))
def test_weights(row, outcome, tiny, tmp_path):
    """The same for training and evaluation (`load_vlm`) as for the exporters (`stored_tensors`)."""
    expected = set(stored_tensors(tiny))
    for number, change in enumerate(WEIGHTS[row]):
        folder = shutil.copytree(tiny, tmp_path / str(number) / "student")
        change(folder)
        if outcome == "opened":
            assert set(stored_tensors(folder)) == expected
            assert load_vlm(folder).num_parameters() > 0
            continue
        words = []
        for read in (stored_tensors, load_vlm):
            with pytest.raises(CheckpointError) as caught:
                read(folder)
            words.append(str(caught.value))
        assert words[0] == words[1] and "\n" not in words[0] and str(folder) in words[0], number


LEARNED = shipped_template("chatml")
TEMPLATES: dict[str, list[tuple[str, str]]] = {  # (template, the model's end token)
    "a `{% generation %}` block around the answer and its end token": [
        (LEARNED, "<|im_end|>"),
        (
            "{% for m in messages %}{{ m.role }}{% generation %}{{ m.content }}<|endoftext|>{% endgeneration %}{% endfor %}",
            "<|endoftext|>",
        ),
        (
            "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content + eos_token + '\\n' }}"
            "{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}",
            "<|im_end|>",
        ),
    ],
    "no `{% generation %}` block": [
        (LEARNED.replace("{%- generation -%}", "").replace("{%- endgeneration -%}", ""), "<|im_end|>"),
        ("{{ messages }}", "<|im_end|>"),
        ("{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}", "<|im_end|>"),
    ],
    "a `{% generation %}` block without the end token": [
        (
            LEARNED.replace(
                "{{- body(message.content) + '<|im_end|>' -}}\n        {%- endgeneration -%}",
                "{{- body(message.content) -}}\n        {%- endgeneration -%}{{- '<|im_end|>' -}}",
            ),
            "<|im_end|>",
        ),
        (
            "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}<|im_end|>{% endfor %}",
            "<|im_end|>",
        ),
        (
            "{% for m in messages %}<|im_start|>{% generation %}{{ m.content }}\n{% endgeneration %}{% endfor %}",
            "<|im_end|>",
        ),
        (
            "{% for m in messages %}{% generation %}<|im_start|>{{ m.content }}{% endgeneration %}{% endfor %}",
            "<|im_end|>",
        ),
    ],
    "an end token that doesn't end the model's own answers": [
        (LEARNED, "<|endoftext|>"),
        (LEARNED, "<|im_start|>"),
        (
            "{% for m in messages %}{% generation %}{{ m.content }}<|endoftext|>{% endgeneration %}{% endfor %}",
            "<|im_end|>",
        ),
    ],
}


@pytest.mark.parametrize(("row", "outcome"), asked("chat template"))
def test_chat_templates(row, outcome, tmp_path):
    for template, end in TEMPLATES[row]:
        tokenizer = small_tokenizer()
        prompt = ChatPrompt(tokenizer, template, tokenizer.token_to_id("<|image_pad|>"), {"eos_token": end})
        if outcome == "opened":
            prompt.require_answer_marks()
            require_learned_end(tmp_path, prompt)
            continue
        with pytest.raises(CheckpointError, match=r"end|generation") as caught:
            prompt.require_answer_marks()
            require_learned_end(tmp_path, prompt)
        assert "\n" not in str(caught.value)


def test_every_row_has_its_inputs():
    assert set(rows("weights")) == set(WEIGHTS)
    assert set(rows("chat template")) == set(TEMPLATES)
