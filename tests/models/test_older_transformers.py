"""What transformers 4.57 makes of a saved folder: the same logits, tokens and pixels."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from support.llava_models import make_model
from transformers import AutoModelForImageTextToText, AutoProcessor

# Run by both versions; prints nothing where all is equal to what the newer one stored.
READER = """
import sys, torch
from pathlib import Path
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor
folder = Path(sys.argv[1])
model, report = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
assert not any(report.values()), report
processor = AutoProcessor.from_pretrained(folder)
prompt = processor.apply_chat_template(
    [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "is there a car ?"}]}], add_generation_prompt=True
)
inputs = processor(images=Image.open(folder / "picture.png"), text=prompt, return_tensors="pt")
expected = load_file(folder / "expected" / "expected.safetensors")
with torch.no_grad():
    logits = model(**inputs).logits
assert torch.equal(inputs["input_ids"], expected["input_ids"])
assert torch.equal(inputs["pixel_values"], expected["pixel_values"])
torch.testing.assert_close(logits, expected["logits"], rtol=0, atol=1e-5)
"""


@pytest.mark.slow
@pytest.mark.parametrize("vision", ["siglip-so400m-patch14-384", "clip-vit-large-patch14-336"])
@pytest.mark.parametrize("language", ["qwen2.5-0.5b", "qwen2.5-7b", "llama-3.2-1b", "qwen3-0.6b"])
def test_older_transformers_reads_the_same_model(tmp_path, older_python, vision, language):
    folder = make_model(tmp_path / "model", vision, language, feature_layer=-2)
    Image.effect_noise((70, 50), 90).convert("RGB").save(folder / "picture.png")
    model, processor = AutoModelForImageTextToText.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "is there a car ?"}]}]
    prompt = processor.apply_chat_template(messages, add_generation_prompt=True)
    inputs = processor(images=Image.open(folder / "picture.png"), text=prompt, return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits
    (folder / "expected").mkdir()
    names = ("input_ids", "pixel_values")
    save_file({"logits": logits} | {name: inputs[name] for name in names}, folder / "expected" / "expected.safetensors")
    done = subprocess.run([older_python, "-c", READER, str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def older_python(tmp_path_factory) -> Path:
    """An environment with transformers 4.57."""
    folder = tmp_path_factory.mktemp("older")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, f"torch=={torch.__version__.split('+')[0]}"], check=True)
    subprocess.run([*pip, "transformers==4.57.1", "pillow"], check=True)
    return python
