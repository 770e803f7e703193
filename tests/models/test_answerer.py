"""Checkpoints that answer: as their engine does; and a teacher that looks through a student's tower."""

import json
import shutil

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from support.llava_models import make_checkpoint, picture, question

from switchkd.cli.evaluate import eval_command
from switchkd.data.questions import Question
from switchkd.errors import CheckpointError, CompatibilityError, SkdError
from switchkd.models.answerer import Answerer
from switchkd.models.switch import answer_pass, vision_features
from switchkd.models.vlm import load_vlm
from switchkd.runtime.engines.opening import open_engine


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """(teacher, student): other widths of the language model, other layers of the tower."""
    folder = tmp_path_factory.mktemp("through")
    teacher = make_checkpoint(folder / "teacher", width=96, seed=1, feature_layer=-1)
    return teacher, make_checkpoint(folder / "student", seed=2, feature_layer=-2)


@pytest.fixture
def asked(tmp_path):
    picture(3).save(tmp_path / "a.png")
    return [Question("q", "color", (tmp_path / "a.png",), question("is it red ?"), "yes")]


def next_token(answerer, questions):
    """Logits after the prompt [V]."""
    with torch.inference_mode():
        return answerer.vlm(**answerer._batch(questions)).logits[0, -1].numpy()


def test_the_teacher_sees_what_the_switch_shows_it(models, asked):
    teacher, student = (Answerer(folder, "cpu") for folder in models)
    batch = teacher._batch(asked)
    ids = torch.cat([batch["input_ids"], torch.zeros(1, 1, dtype=torch.long)], 1)  # the position after the prompt
    last = torch.zeros(1, ids.shape[1] - 1, dtype=torch.bool)
    last[0, -1] = True
    with torch.inference_mode():
        features = vision_features(student.vlm, batch["pixel_values"])
        expected = answer_pass(teacher.vlm, features, ids, torch.ones_like(ids), last).logits[0].numpy()
    through = Answerer(models[0], "cpu", tower=models[1])
    np.testing.assert_allclose(next_token(through, asked), expected, rtol=1e-4, atol=1e-4)
    assert np.abs(next_token(teacher, asked) - expected).max() > 0.1
    np.testing.assert_array_equal(
        next_token(Answerer(models[0], "cpu", tower=models[0]), asked), next_token(teacher, asked)
    )


def test_a_tower_that_doesnt_fit(models, tmp_path):
    with pytest.raises(CompatibilityError, match="equal widths"):
        Answerer(models[0], tower=make_checkpoint(tmp_path / "wide", vision_width=128))


def test_on_the_command_line(models, asked, tmp_path):
    (tmp_path / "data.json").write_text(
        '[{"id": "1", "image": "a.png", "conversations": [{"from": "human", "value": "<image>\\nis it red ?"},'
        ' {"from": "gpt", "value": "yes"}]}]'
    )
    options = ["--data", str(tmp_path / "data.json"), "--images", str(tmp_path), "--max-tokens", "5"]
    teacher, student = map(str, models)
    said = {}
    for name, arguments in {"plain": [student], "through": [student, "--through", teacher]}.items():
        out = tmp_path / f"{name}.json"
        result = CliRunner().invoke(eval_command, [*arguments, *options, "--json", str(out)])
        assert result.exit_code == 0, result.output
        said[name] = json.loads(out.read_text())["answers"][0]["answer"]
    expected = Answerer(models[0], "cpu", tower=models[1]).answer(asked, max_new_tokens=5)[0]
    assert said["through"] == expected != said["plain"]


def test_an_export_has_no_tower_to_look_through(models, asked, tmp_path):
    export = tmp_path / "export"
    export.mkdir()
    (export / "manifest.json").write_text("{}")
    (tmp_path / "data.json").write_text(
        '[{"id": "1", "conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yes"}]}]'
    )
    for arguments in ([str(export), "--through", str(models[0])], [str(models[1]), "--through", str(export)]):
        result = CliRunner().invoke(eval_command, [*arguments, "--data", str(tmp_path / "data.json")])
        assert isinstance(result.exception, SkdError) and "takes a teacher's and students' checkpoints" in str(
            result.exception
        )


@pytest.fixture
def peculiar(models, tmp_path):
    """A checkpoint whose generation_config.json punishes repetitions and names one more token that ends an answer."""
    folder = shutil.copytree(models[1], tmp_path / "peculiar")
    with open_engine(folder, threads=1) as engine:
        features = engine.encode_image(picture(3))
        said = list(engine.tokens(engine.encode_prompt(question("is it red ?")), features, max_new_tokens=12))
    assert len(said) == 12
    ending = next(token for place, token in enumerate(said) if place >= 4 and token not in said[:place])
    path = folder / "generation_config.json"
    settings = json.loads(path.read_text()) | {"repetition_penalty": 3.0, "no_repeat_ngram_size": 1}
    path.write_text(json.dumps(settings | {"eos_token_id": [settings["eos_token_id"], ending]}))
    return folder


def test_a_checkpoint_answers_as_its_engine_does(peculiar, models, asked, tmp_path):
    (tmp_path / "data.json").write_text(
        '[{"id": "1", "image": "a.png", "conversations": [{"from": "human", "value": "<image>\\nis it red ?"},'
        ' {"from": "gpt", "value": "yes"}]}]'
    )
    out = tmp_path / "scores.json"
    options = ["--data", tmp_path / "data.json", "--images", tmp_path, "--max-tokens", 12, "--json", out]
    result = CliRunner().invoke(eval_command, [str(peculiar), *map(str, options)])
    assert result.exit_code == 0, result.output
    with open_engine(peculiar, threads=1) as engine:
        expected = engine.answer(asked[0].messages, picture(3), max_new_tokens=12)
    assert json.loads(out.read_text())["answers"][0]["answer"] == expected
    # Both settings would change the answer: without the ending it is longer, with the penalty another.
    assert Answerer(models[1], "cpu").answer(asked, max_new_tokens=12)[0] != expected
    plain = Answerer(peculiar, "cpu")
    plain.vlm.generation_config = load_vlm(peculiar).generation_config
    assert plain.answer(asked, max_new_tokens=12)[0] != expected


def test_a_checkpoint_without_an_end(models, tmp_path):
    folder = shutil.copytree(models[1], tmp_path / "endless")
    for name in ("generation_config.json", "special_tokens_map.json"):
        (folder / name).unlink(missing_ok=True)
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    path.write_text(
        json.dumps({key: value for key, value in settings.items() if key not in ("eos_token", "pad_token")})
    )
    with pytest.raises(CheckpointError, match="names no token that ends an answer"):
        Answerer(folder, "cpu")
