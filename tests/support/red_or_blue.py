"""A small student that knows its answers: yes to red pictures, no to blue ones."""

from pathlib import Path

import numpy as np
from PIL import Image

QUESTION = "Is it red?\nAnswer the question using a single word or phrase."


def red_or_blue(name: str, seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 60, (60, 60, 3), dtype=np.uint8)
    pixels[..., 0 if name == "red" else 2] += 180
    return Image.fromarray(pixels)


def teach(folder: Path) -> None:
    """Trains a small checkpoint to say "yes" to red and "no" to blue, and nothing else."""
    import torch
    from transformers import AutoProcessor

    from switchkd.models.vlm import load_vlm, save_vlm
    from switchkd.preprocess import Preprocess
    from switchkd.prompt import ChatPrompt

    torch.manual_seed(0)
    vlm, prompt, preprocess = load_vlm(folder).train(), ChatPrompt.load(folder), Preprocess.load(folder)
    optimizer = torch.optim.AdamW(vlm.parameters(), lr=2e-3)
    asked = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]}
    names = ("red", "blue") * 2
    batch: list[dict] = []
    for name in names:
        messages = [asked, {"role": "assistant", "content": "yes" if name == "red" else "no"}]
        encoded = prompt.encode(messages, image_tokens=16, labels=True)
        batch.append({"ids": encoded.ids, "mask": encoded.answer_mask})
    longest = max(len(row["ids"]) for row in batch)
    pad = prompt.token_id("pad_token")
    ids = torch.tensor([row["ids"] + [pad] * (longest - len(row["ids"])) for row in batch])
    learned = torch.tensor([row["mask"] + [False] * (longest - len(row["mask"])) for row in batch])
    for step in range(120):
        values = np.stack([preprocess(red_or_blue(name, 1000 + 4 * step + n)) for n, name in enumerate(names)])
        loss = vlm(input_ids=ids, pixel_values=torch.from_numpy(values), labels=torch.where(learned, ids, -100)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1
    save_vlm(vlm.eval(), folder.with_name("taught"), AutoProcessor.from_pretrained(folder))
