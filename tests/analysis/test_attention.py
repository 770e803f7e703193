"""Where a model looks: the same weights as the stock forward's, on the right patches."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from support.finished import finish_run
from support.llava_models import make_checkpoint, picture, question
from transformers import LlavaForConditionalGeneration

from switchkd.analysis.attention import attend
from switchkd.cli.main import main
from switchkd.data.questions import Question
from switchkd.errors import SkdError
from switchkd.models.answerer import Answerer
from switchkd.pictures import open_image

PROMPT = "how many cars ?"


@pytest.fixture
def finished_run(tmp_path_factory, teacher_folder, student_folder):
    return finish_run(tmp_path_factory.getbasetemp() / "finished", teacher_folder, student_folder)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """SigLIP; CLIP without its class token; CLIP with it."""
    folder = tmp_path_factory.mktemp("looking")
    made = {
        "siglip": make_checkpoint(folder / "siglip"),
        "clip": make_checkpoint(folder / "clip", vision="clip-vit-large-patch14-336", feature_layer=-2),
    }
    made["clip-full"] = shutil.copytree(made["clip"], folder / "clip-full")
    config = json.loads((made["clip-full"] / "config.json").read_text())
    config["vision_feature_select_strategy"] = "full"
    (made["clip-full"] / "config.json").write_text(json.dumps(config))
    return made


@pytest.fixture
def image(tmp_path) -> Path:
    picture().save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def literal_map(folder: Path, image: Path, layers: slice, class_tokens: int) -> np.ndarray:
    """The whole [T, T] attention of the stock forward in eager mode, of which one row is needed."""
    vlm = LlavaForConditionalGeneration.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32)
    answerer = Answerer(folder)
    vision = vlm.config.vision_config
    side = vision.image_size // vision.patch_size
    ids = answerer.prompt.encode(question(PROMPT), image_tokens=side**2 + class_tokens, add_generation_prompt=True).ids
    pixels = torch.from_numpy(answerer.preprocess(open_image(image)))[None]
    with torch.no_grad():
        attentions = vlm(input_ids=torch.tensor([ids]), pixel_values=pixels, output_attentions=True).attentions
    start = ids.index(answerer.prompt.image_token_id) + class_tokens
    total = np.zeros((side, side))
    for weights in attentions[layers]:  # [1, heads, T, T]
        for head in weights[0]:
            for row in range(side):
                for column in range(side):
                    total[row, column] += float(head[-1, start + row * side + column])
    return total / total.sum()


@pytest.mark.parametrize(
    ("kind", "layer", "layers"),
    [
        ("siglip", None, slice(None)),
        ("siglip", 0, slice(0, 1)),
        ("siglip", -1, slice(-1, None)),
        ("clip", None, slice(None)),
        ("clip-full", None, slice(None)),
    ],
)
def test_the_weights_are_the_stock_forwards(folders, image, kind, layer, layers):
    ours = attend(folders[kind], image, PROMPT, layer).attention
    theirs = literal_map(folders[kind], image, layers, class_tokens=kind == "clip-full")
    assert ours.shape == theirs.shape and ours.sum() == pytest.approx(1)
    assert theirs.std() > 1e-4, "the reference is not the same everywhere"
    np.testing.assert_allclose(ours, theirs, rtol=1e-3)


@pytest.mark.parametrize(
    ("settings", "tokens", "side"),
    [
        ({"feature_select": "default"}, 15, 4),  # SigLIP's first patch isn't shown
        ({"projector": "pixel_shuffle"}, 4, 2),
        ({"projector": "ldpv2", "vision": "clip-vit-large-patch14-336"}, 4, 2),
    ],
)
def test_the_map_has_the_tokens_places(shelf, image, settings, tokens, side):
    attended = attend(shelf.checkpoint(feature_layer=-2, **settings), image, PROMPT)
    assert attended.attention.shape == (side, side) and np.count_nonzero(attended.attention) == tokens
    if tokens < side**2:
        assert attended.attention[0, 0] == 0


def test_another_picture_another_map_and_the_answer_is_the_usual_one(folders, image, tmp_path):
    answerer = Answerer(folders["siglip"])
    usual = answerer.vlm.model.language_model.config._attn_implementation
    first = attend(answerer, image, PROMPT)
    assert [first.answer] == answerer.answer([Question("", "all", (image,), question(PROMPT), "")])
    assert answerer.vlm.model.language_model.config._attn_implementation == usual
    picture(1).save(tmp_path / "other.png")
    second = attend(answerer, tmp_path / "other.png", PROMPT)
    assert np.abs(first.attention - second.attention).max() > 1e-4
    np.testing.assert_array_equal(first.attention, attend(answerer, image, PROMPT).attention)


def test_a_layer_that_is_not_there(folders, image):
    for layer in (9, -9):
        with pytest.raises(SkdError, match=f"no layer {layer}: this language model has \\d"):
            attend(folders["siglip"], image, PROMPT, layer)


def skd(*arguments: object):
    return CliRunner().invoke(main, ["attention", "--prompt", PROMPT, *map(str, arguments)])


def test_the_command_draws_each_model(folders, image, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sizes = []
    for models in (["siglip"], ["siglip", "clip"]):
        result = skd(*(folders[name] for name in models), "--image", image)
        assert result.exit_code == 0, (result.output, result.exception)
        assert all(f"{name}: " in result.output for name in models) and "attention.png" in result.output
        sizes.append(Image.open("attention.png").width)
    assert sizes[1] > sizes[0] + 200, "a panel more"


def test_bare_it_draws_the_newest_run(finished_run, monkeypatch):
    folder, _ = finished_run
    monkeypatch.chdir(folder)
    result = skd("--image", "test/0.png")
    assert result.exit_code == 0, (result.output, result.exception)
    assert [line.partition(":")[0] for line in result.output.splitlines() if ": " in line] == [
        "teacher",
        "SFT",
        "Switch-KD",
    ]
    assert Image.open("runs/small/reports/attention.png").width > 1000


def test_mistakes_are_one_line(folders, image, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = folders["siglip"]
    for arguments, message in (
        ((model, "--image", "none.png"), "no picture none.png"),
        (("nowhere", "--image", image), "no model folder nowhere"),
        (("--image", image), "There is no run yet"),
        ((model, "--image", image, "--layer", 7), "no layer 7"),
        ((model, "--image", image, "--out", "x.words"), "x.words can't be written"),
    ):
        result = skd(*arguments)
        assert result.exit_code == 1 and isinstance(result.exception, SystemExit), result.exception
        assert message in result.output and len(result.output.strip().splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["picture.png"]
