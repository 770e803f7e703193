"""Whatever lies in a data file, a picture or a model's JSON: it is used, or refused in one line. Nothing is lost silently."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import pictures
from support.inputs_page import LIMIT
from support.llava_files import IMAGE_TOKENS
from support.llava_models import make_checkpoint
from support.pictures import encoded, noise
from support.tokenizers import small_prompt

from switchkd.architecture.architecture import Architecture
from switchkd.architecture.endings import require_learned_end
from switchkd.data.index import Source, build_index
from switchkd.data.llava import LlavaDataset
from switchkd.data.usability import count_usable
from switchkd.errors import DataError, SkdError
from switchkd.export.checkpoint import Checkpoint
from switchkd.export.exporter import exporter_for
from switchkd.models.vlm import read_config
from switchkd.pictures import check_image_header, decode_image, open_image
from switchkd.preprocess import Preprocess
from switchkd.prompt import ChatPrompt

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("error::UserWarning")]


def fuzzed(examples: int) -> Any:
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
    )


def one_line(error: Exception) -> str:
    words = str(error)
    assert words.strip() and "\n" not in words.strip(), words
    return words


# Records ---------------------------------------------------------------------------------------------------------------

words = st.lists(
    st.sampled_from(
        [
            "<image>",
            "<video>",
            "<depth>",
            "</image>",
            "\n",
            " ",
            "a car",
            "é\u0301",
            "\ud800",
            "\ufdd1",
            "<|im_end|>",
            "好",
        ]
    )
    | st.text(max_size=5),
    max_size=6,
).map("".join)
anything = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)
parts = st.lists(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["text", "image", "video"])}, optional={"text": words, "image": words}
    ),
    max_size=4,
)
turn = st.fixed_dictionaries(
    {},
    optional={
        "from": st.sampled_from(["human", "gpt", "system", "user", "tool"]),
        "role": st.sampled_from(["user", "assistant", "system"]),
        "value": words | parts | anything,
        "content": words | parts | anything,
    },
)
talk = st.lists(turn, max_size=5) | st.lists(words, min_size=2, max_size=4).map(
    lambda texts: [{"from": ("human", "gpt")[n % 2], "value": text} for n, text in enumerate(texts)]
)
names = st.sampled_from(
    ["car.png", "sub/car.png", "sub\\car.png", "torn.jpg", "none.png", "../car.png", "/etc/hostname", "out.png", ""]
)
record = st.fixed_dictionaries(
    {},
    optional={
        "id": anything,
        "image": names | st.lists(names, max_size=2) | anything,
        "images": names | st.lists(names, max_size=2) | anything,
        "conversations": talk | anything,
        "messages": talk | anything,
        "video": st.just("a.mp4") | anything,
        "depth": anything,
        "kind": anything,
    },
)


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pictures") / "images"
    (folder / "sub").mkdir(parents=True)
    for path in (folder / "car.png", folder / "sub" / "car.png", folder.parent / "secret.png"):
        noise((40, 30)).save(path)
    (folder / "torn.jpg").write_bytes(encoded("JPEG", (40, 30))[:500])
    (folder / "out.png").symlink_to(folder.parent / "secret.png")
    return folder


PROMPT = small_prompt()


def check_file(file: Path, images: Path) -> int | None:
    """Looks through a file as training does, and reads every usable sample; how many records it has, None if refused."""
    source = Source(file, images, PROMPT, image_tokens=IMAGE_TOKENS, max_length=LIMIT)
    try:
        index = build_index(source)
    except DataError as error:
        one_line(error)
        return None
    report = count_usable(source, index)
    assert report.total == len(index) == report.usable + sum(report.bad.values())
    assert all(report.why[name] and "\n" not in report.why[name] for name in report.bad)
    size = {"image_processor_type": "SiglipImageProcessor", "size": {"height": 16, "width": 16}, "resample": 3}
    samples = LlavaDataset(source, index, Preprocess.from_config(size | {"image_mean": 0.5, "image_std": 0.5}))
    for number, row in enumerate(index.usable):
        sample = samples[number]
        assert sample["length"] == index.tokens[row] and not sample["bad"]
        assert (sample["labels"] >= 0).any() and (sample["pixel_values"] is not None) == bool(index.pictures[row])
    return len(index)


@fuzzed(1000)
@given(records=st.lists(record | anything, max_size=3), lines=st.booleans())
def test_records(records, lines, images, tmp_path):
    file = tmp_path / ("data.jsonl" if lines else "data.json")
    text = "\n".join(map(json.dumps, records)) if lines else json.dumps(records)
    file.write_text(text)
    assert check_file(file, images) == len(records)


@fuzzed(750)
@given(
    records=st.lists(record, min_size=1, max_size=3),
    name=st.sampled_from(["a.json", "a.jsonl", "a.JSON", "a"]),
    cuts=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 9), st.binary(max_size=4)), max_size=3),
    encoding=st.sampled_from(["utf-8", "utf-8", "utf-16", "utf-8-sig", "latin-1"]),
)
def test_bytes_of_record_files(records, name, cuts, encoding, images, tmp_path):
    content = json.dumps(records).encode(encoding)
    for place, removed, added in cuts:
        start = int(place * len(content))
        content = content[:start] + added + content[start + removed :]
    (tmp_path / name).write_bytes(content)
    check_file(tmp_path / name, images)


# Pictures --------------------------------------------------------------------------------------------------------------

FORMS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM", "ICO", "TGA")
edits = st.lists(
    st.tuples(st.floats(0, 1) | st.floats(0, 0.05), st.integers(0, 30), st.binary(max_size=12)), min_size=1, max_size=4
)


def edited(data: bytes, changes: list[tuple[float, int, bytes]]) -> bytes:
    for place, removed, added in changes:
        start = int(place * len(data))
        data = data[:start] + added + data[start + removed :]
    return data


def look(data: bytes, folder: Path) -> np.ndarray | None:
    """The picture's pixels, the same by every way in; None where it is refused."""
    path = folder / "a.picture"
    path.write_bytes(data)
    try:
        shown = np.asarray(open_image(path))
    except DataError as error:
        assert str(path) in one_line(error)
        for check in (
            lambda: check_image_header(path),
            lambda: decode_image(data, formats=("JPEG", "PNG"), max_pixels=10**6),
        ):
            try:
                check()
            except DataError as error:
                one_line(error)
        return None
    check_image_header(path)
    assert shown.ndim == 3 and shown.shape[2] == 3 and shown.dtype == np.uint8
    return shown


@fuzzed(2000)
@given(form=st.sampled_from(FORMS), changes=edits, grey=st.booleans())
def test_bytes_of_pictures(form, changes, grey, tmp_path):
    image = noise((48, 40), "L" if grey else "RGB")
    look(edited(pictures.saved(image, form), changes), tmp_path)


@fuzzed(750)
@given(kept=st.integers(20, 6000), progressive=st.booleans(), tail=st.binary(max_size=3))
def test_a_jpeg_that_lacks_pixels_is_never_shown(kept, progressive, tail, tmp_path):
    """A baseline one is shown as it was or not at all; but where other bytes stand in the place of its last block's, which are
    pixels as well."""
    whole = encoded("JPEG", (48, 40), progressive=progressive)
    if tail and len(whole) - 300 < kept < len(whole):
        return
    torn = whole[:kept] + tail
    shown = look(torn, tmp_path)
    if shown is not None and not progressive:
        np.testing.assert_array_equal(shown, look(whole, tmp_path))


@fuzzed(750)
@given(
    name=st.sampled_from(
        [b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"tIME", b"pHYs", b"gAMA", b"eXIf", b"acTL", b"fcTL", b"prIV"]
    ),
    body=st.binary(max_size=60),
    damaged=st.booleans(),
    at_end=st.booleans(),
)
def test_what_stands_beside_a_png_never_counts(name, body, damaged, at_end, tmp_path):
    png = encoded("PNG", (16, 16))
    shown = look(pictures.with_chunks(png, pictures.chunk(name, body, damaged=damaged), at_end=at_end), tmp_path)
    assert shown is not None and np.array_equal(shown, np.asarray(noise((16, 16))))


@fuzzed(750)
@given(
    tag=st.sampled_from([0x0112, 0x011A, 0x0100, 0x8769, 0x8825]),
    kind=st.integers(0, 15),
    value=st.binary(max_size=16),
    count=st.integers(0, 5),
)
def test_whatever_exif_says_a_jpeg_is_seen(tag, kind, value, count, tmp_path):
    segment = pictures.exif(tag, kind, value, count)
    shown = look(pictures.with_segment(encoded("JPEG", (16, 16)), segment), tmp_path)
    assert shown is not None and sorted(shown.shape) == [3, 16, 16]


# A model's JSON --------------------------------------------------------------------------------------------------------

JSONS = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "tokenizer_config.json",
    "processor_config.json",
)
values = (
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.sampled_from([0, 1, 7, 10**9, -1, 1e308, 0.5, "", "x", "llava", "qwen2", [], {}, [1, 2]])
)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model") / "student")


def leaves(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Places of everything in a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place, *(found for name, item in inner for found in leaves(item, (*place, name)))]


def replaced(value: Any, place: tuple[Any, ...], new: Any, remove: bool) -> Any:
    if not place:
        return new
    *above, last = place
    target = value
    for name in above:
        target = target[name]
    if remove and isinstance(target, dict):
        del target[last]
    else:
        target[last] = new
    return value


@fuzzed(750)
@given(data=st.data(), file=st.sampled_from([*JSONS[:1] * 4, *JSONS[1:]]), new=values, remove=st.booleans())
def test_json_of_models(data, file, new, remove, model, tmp_path):
    """Read in every way: as an exporter does, and as training and evaluation do before they load anything."""
    folder = tmp_path / "student"
    if not folder.exists():
        shutil.copytree(model, folder)
    for name in JSONS:
        shutil.copy(model / name, folder / name)
    content = json.loads((model / file).read_text())
    place = data.draw(st.sampled_from(leaves(content)))
    (folder / file).write_text(json.dumps(replaced(content, place, new, remove)))
    for format in ("gguf", "onnx"):
        try:
            exporter_for(format).plan(Checkpoint(folder), "q8", None)
        except SkdError as error:
            one_line(error)
    try:
        prompt = ChatPrompt.load(folder)
        require_learned_end(folder, prompt)
        Preprocess.load(folder)
        architecture = Architecture.read(folder)
        assert architecture.feature_width > 0 and architecture.image_tokens > 0
        read_config(folder)
    except SkdError as error:
        one_line(error)
