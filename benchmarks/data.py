"""What a LLaVA file of 665,000 records costs: seconds to index it, memory of a process that trains on it.

    python benchmarks/data.py [--records N] [--workers N] [--verify full|header] [--pictures N]

Records are about as long as LLaVA-1.5's (1 kB of JSON); their pictures are `--pictures` files of 640 × 480 in turn.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from torch.utils.data import DataLoader

from switchkd.chat_template import shipped_template
from switchkd.data.index import Source, build_index
from switchkd.data.llava import Collator, LlavaDataset
from switchkd.data.sampler import LengthGroupedSampler
from switchkd.data.usability import count_usable
from switchkd.models.tokenizer import IMAGE_PAD, train_tokenizer
from switchkd.preprocess import Preprocess
from switchkd.prompt import ChatPrompt

SIGLIP = Preprocess(384, 384, None, 3, 1 / 255, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
TEXT = "the a car sign red two lorry in front of behind it shows what is how many there are blue street at night"
WORDS = TEXT.split()


def sentence(words: int) -> str:
    return " ".join(random.choices(WORDS, k=words)) + "."


def write_records(folder: Path, count: int, pictures: int) -> Path:
    """About 1 kB a record: three turns with a picture, every fifth record text only."""
    for number in range(pictures):
        pixels = np.random.default_rng(number).integers(0, 256, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((640, 480)).save(folder / f"{number}.jpg")
    file = folder / "records.json"
    with file.open("w") as stream:
        for number in range(count):
            asked, told = ([sentence(random.randint(5, 20)), sentence(random.randint(10, 80))][n % 2] for n in (0, 1))
            texts = [asked, told, sentence(12), sentence(40), sentence(9), sentence(30)]
            record = {"id": f"{number:09}", "image": f"{number % pictures}.jpg"} if number % 5 else {"id": str(number)}
            texts[0] = "<image>\n" * ("image" in record) + texts[0]
            turns = [{"from": ("human", "gpt")[n % 2], "value": text} for n, text in enumerate(texts)]
            stream.write((",\n" if number else "[") + json.dumps(record | {"conversations": turns}))
        stream.write("]")
    return file


def memory() -> str:
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    now, peak = (int(status[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM"))
    return f"{now:.0f} MB now, {peak:.0f} MB at most"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=665_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--verify", choices=["full", "header"], default="header")
    parser.add_argument("--pictures", type=int, default=50)
    options = parser.parse_args()
    random.seed(0)
    tokenizer = train_tokenizer([sentence(2000)], rows=2000)
    prompt = ChatPrompt(tokenizer, shipped_template("chatml"), tokenizer.get_vocab()[IMAGE_PAD])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = write_records(folder, options.records, options.pictures)
        source = Source(file, folder, prompt, image_tokens=729, max_length=2048, verify=options.verify)
        print(f"{options.records:,} records, {file.stat().st_size / 1e6:.0f} MB; before the index: {memory()}")
        for attempt in ("index", "index from the cache"):
            start = time.perf_counter()
            index = build_index(source, workers=options.workers, cache=folder / "cache")
            print(f"{attempt}: {time.perf_counter() - start:.1f} s; {memory()}")
        print(count_usable(source, index))
        dataset = LlavaDataset(source, index, SIGLIP)
        order = LengthGroupedSampler(dataset.lengths, 64, seed=0)
        start, steps = time.perf_counter(), 20
        for _step, _batch in zip(
            range(steps), DataLoader(dataset, 8, sampler=order, collate_fn=Collator(0)), strict=False
        ):
            pass
        print(f"sample: {(time.perf_counter() - start) / steps / 8 * 1e3:.1f} ms; with sampler and batches: {memory()}")


if __name__ == "__main__":
    main()
