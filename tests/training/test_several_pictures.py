"""Records with several pictures: batches, losses and both pathways are those of stock forwards and literal sums."""

import json

import pytest
import torch
from support.training import losses, make_batch, train

from switchkd.losses.objective import Objective
from switchkd.models.passes import Asked, Passes
from switchkd.models.switch import Switch, answer_pass, answer_positions, as_student, vision_features
from switchkd.models.vlm import load_vlm
from switchkd.pictures import open_image
from switchkd.preprocess import Preprocess
from switchkd.prompt import ChatPrompt
from switchkd.recipes.recipe import Distillation, Stage
from switchkd.runs import STAGE_RECORD, trained_pictures

PICTURES = ["train/000000.png", "train/000001.png", "train/000002.png"]


def record(pictures, *turns):
    said = [{"from": ("human", "gpt")[number % 2], "value": text} for number, text in enumerate(turns)]
    return {**({"image": pictures} if pictures else {}), "conversations": said}


RECORDS = [
    record(PICTURES[:2], "<image>\n<image>\nis it the same scene ?", "no"),
    record([], "what is red ?", "a car"),
    record(PICTURES[2:], "<image>\nwhat is it ?", "a bus"),
    record(PICTURES[::-1], "left: <image>\nright: <image>\nwhich is at night ?", "first", "<image>\nand here ?", "day"),
]
ORDER = [*PICTURES[:2], *PICTURES[2:], *PICTURES[::-1]]


@pytest.fixture
def data(tmp_path, road_scenes):
    file = tmp_path / "several.json"
    file.write_text(json.dumps(RECORDS))
    return file, road_scenes / "images"


@pytest.fixture
def batch(student_folder, data):
    return make_batch(student_folder, data)


@pytest.fixture
def vlm(student_folder):
    return load_vlm(student_folder)


def test_pictures_stand_in_their_order(student_folder, batch, road_scenes):
    preprocess = Preprocess.load(student_folder)
    for pixels, name in zip(batch["pixel_values"], ORDER, strict=True):
        torch.testing.assert_close(pixels, torch.from_numpy(preprocess(open_image(road_scenes / "images" / name))))
    prompt = ChatPrompt.load(student_folder)
    ids = [token for token in batch["input_ids"][3].tolist() if token != prompt.image_token_id]
    text = prompt.decode(ids, skip_special_tokens=False)
    assert "left: \nright: \nwhich is at night ?" in text and "user\n\nand here ?" in text


def test_loss_of_records_with_several_pictures(vlm, batch):
    """Transformers' own, and a literal one: each record by itself, its pictures' features put in one after the other."""
    targets = batch["labels"][:, 1:][answer_positions(batch["labels"])]
    own = as_student(vlm)(**batch)
    ours = Objective(Distillation(), Stage())(Passes(own, targets)).total / len(targets)
    total, count, used = torch.zeros(()), 0, 0
    token = vlm.config.image_token_id
    for row, asked in enumerate(RECORDS):
        length = int(batch["attention_mask"][row].sum())
        ids, labels = batch["input_ids"][row, :length], batch["labels"][row, :length]
        embeds = vlm.get_input_embeddings()(ids.masked_fill(ids == token, 0)).clone()
        places = (ids == token).nonzero()[:, 0].tolist()
        for _ in asked.get("image", []):
            features = vision_features(vlm, batch["pixel_values"][used][None])
            for feature in vlm.model.multi_modal_projector(features)[0]:
                embeds[places.pop(0)] = feature
            used += 1
        assert not places
        hidden = vlm.model.language_model(inputs_embeds=embeds[None]).last_hidden_state[0]
        logs = torch.log_softmax(vlm.lm_head(hidden), -1)
        for place in range(1, length):
            if labels[place] >= 0:
                total, count = total - logs[place - 1, labels[place]], count + 1
    assert count == len(targets) and used == len(ORDER)
    torch.testing.assert_close(ours, total / count, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours, stock_loss(vlm, batch), rtol=1e-5, atol=1e-6)
    swapped = batch | {"pixel_values": batch["pixel_values"].roll(1, 0)}
    assert abs(float((stock_loss(vlm, swapped) - ours).detach())) > 1e-4


def stock_loss(vlm, batch):
    from transformers import LlavaForConditionalGeneration

    return LlavaForConditionalGeneration.forward(vlm, **batch).loss


def test_both_pathways(vlm, teacher_folder, student_folder, batch):
    prompt = ChatPrompt.load(student_folder)
    switch = Switch(load_vlm(teacher_folder), prompt.image_token_id, prompt.length)
    answers = answer_positions(batch["labels"])

    def stock(model):
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "pixel_values")}
        return model(**inputs).logits[:, :-1][answers][:, : switch.rows]

    with torch.no_grad():
        torch.testing.assert_close(switch.teacher_pass(batch).logits, stock(switch.teacher), rtol=0, atol=1e-5)
        seen, rows = switch.switch_pass(as_student(vlm)(**batch).features, batch)
        switch.teacher.model.vision_tower = vlm.model.vision_tower
        torch.testing.assert_close(seen.logits, stock(switch.teacher)[rows], rtol=0, atol=1e-5)


def test_what_is_asked_for_of_several_pictures(vlm, batch):
    answers = answer_positions(batch["labels"])
    with torch.no_grad():
        features = vision_features(vlm, batch["pixel_values"])
        text = (batch["input_ids"], batch["attention_mask"], answers)
        ours = answer_pass(vlm, features, *text, asked=Asked(frozenset({-1}), frozenset({1})))
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "pixel_values")}
        stock = vlm(**inputs, output_hidden_states=True, output_attentions=True)
    shown = batch["input_ids"] == vlm.config.image_token_id
    torch.testing.assert_close(ours.image_hidden[-1].flatten(0, 1), stock.hidden_states[-1][shown])
    tokens = features.shape[1]
    assert ours.attentions[1].shape[-1] == 3 * tokens
    places = [(row, place) for row, place in answers.nonzero().tolist() if shown[row].any()]
    for (row, place), got in zip(places, ours.attentions[1], strict=True):
        expected = stock.attentions[1][row, :, place][:, shown[row]]
        torch.testing.assert_close(got[:, : expected.shape[1]], expected)
        assert not got[:, expected.shape[1] :].any()


def test_a_stage_trains_on_them_and_says_how_many(student_folder, teacher_folder, data, tmp_path):
    folder = tmp_path / "stage"
    model = train(folder, student_folder, data, teacher=teacher_folder, steps=3)
    for key in ("loss", "align", "vsd"):
        assert all(value > 0 for value in losses(folder, key)[:3])
    assert json.loads((folder / STAGE_RECORD).read_text())["pictures"] == 3 == trained_pictures(model)
    assert trained_pictures(student_folder) is None
    # What was learned before isn't forgotten by a stage on single pictures.
    (tmp_path / "one.json").write_text(json.dumps(RECORDS[1:3] * 2))
    later = train(tmp_path / "later", model, (tmp_path / "one.json", data[1]), steps=1)
    assert trained_pictures(later) == 3
    plain = train(tmp_path / "plain", student_folder, (tmp_path / "one.json", data[1]), steps=1)
    assert trained_pictures(plain) == 1
