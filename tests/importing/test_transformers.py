"""Imported folders by transformers alone: the same ids, pixels and logits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from support.foreign import CLIP, LLAMA, QWEN, SIGLIP, random_model, write_factory, write_llava, write_tower
from support.llava_models import picture
from support.tokenizers import small_tokenizer

from switchkd.cli.main import main
from switchkd.models.tokenizer import save_tokenizer
from switchkd.preprocess import Preprocess
from switchkd.prompt import ChatPrompt


def imported(kind: str, folder: Path) -> Path:
    if kind == "factory":
        source = write_factory(folder / "source", random_model(SIGLIP, QWEN))
        save_tokenizer(small_tokenizer(), source)
        more = []
    else:
        model = random_model(CLIP, LLAMA)
        source = write_llava(folder / "source", model)
        more = ["--vision", str(write_tower(folder / "tower", model))]
    result = CliRunner().invoke(main, ["import", str(source), str(folder / "target"), *more])
    assert result.exit_code == 0, result.output
    return folder / "target"


@pytest.mark.parametrize(("kind", "tokens"), [("factory", 728), ("llava", 576)])
@torch.inference_mode()
def test_transformers_reads_it_as_any_other(kind, tokens, tmp_path):
    from transformers import AutoModelForImageTextToText, AutoProcessor

    target, image = imported(kind, tmp_path), picture(4, 80, 50)
    processor = AutoProcessor.from_pretrained(target, backend="pil")
    talk = [
        {"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": "how many cars ?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "two"}]},
        {"role": "user", "content": [{"type": "text", "text": "is it red ?"}]},
    ]
    given = processor.apply_chat_template(
        [talk], tokenize=True, return_dict=True, add_generation_prompt=True, return_tensors="pt"
    )
    prompt, preprocess = ChatPrompt.load(target), Preprocess.load(target)
    plain = [
        {**turn, "content": [{k: v for k, v in p.items() if k != "image"} for p in turn["content"]]} for turn in talk
    ]
    ids = prompt.encode(plain, image_tokens=tokens, add_generation_prompt=True).ids
    assert given["input_ids"][0].tolist() == ids
    np.testing.assert_array_equal(given["pixel_values"][0].numpy(), preprocess(image))
    model = AutoModelForImageTextToText.from_pretrained(target).eval()
    said = model.generate(**given, max_new_tokens=3, do_sample=False)
    assert said.shape[1] <= len(ids) + 3 and model.generation_config.eos_token_id == prompt.token_id("eos_token")
