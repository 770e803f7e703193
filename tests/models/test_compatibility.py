"""Teachers and students that don't go together are told apart before the first step."""

import json
import shutil

import pytest
from support.llava_models import make_model

from switchkd.errors import CompatibilityError
from switchkd.models.compatibility import check_compatibility, towers_equal
from switchkd.models.vlm import load_vlm


def test_other_rows_and_widths_of_the_language_model_are_fine(teacher_folder, student_folder):
    check_compatibility(teacher_folder, student_folder)


def test_equal_towers_are_noticed(teacher_folder, student_folder):
    teacher, student = load_vlm(teacher_folder).model.vision_tower, load_vlm(student_folder).model.vision_tower
    assert not towers_equal(teacher, student)
    teacher.load_state_dict(student.state_dict())
    assert towers_equal(teacher, student)


def edit(folder, name, change):
    content = json.loads((folder / name).read_text())
    change(content)
    (folder / name).write_text(json.dumps(content))


def swap_two_tokens(content):
    vocabulary = content["model"]["vocab"]
    first, second = list(vocabulary)[:2]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("tokenizer.json", swap_two_tokens, "tokenizers differ in 2 tokens"),
        ("tokenizer.json", lambda content: content.clear(), "no readable tokenizer"),
        ("config.json", lambda config: config["vision_config"].update(hidden_size=48), "width 48"),
        ("config.json", lambda config: config["vision_config"].update(image_size=28), "A picture is 4 tokens"),
        (
            "preprocessor_config.json",
            lambda config: config.update(image_mean=[0.1, 0.1, 0.1]),
            "prepare pictures differently",
        ),
    ],
)
def test_what_differs_is_named(tmp_path, teacher_folder, student_folder, file, change, message):
    folder = tmp_path / "teacher"
    shutil.copytree(teacher_folder, folder)
    if file == "preprocessor_config.json":
        (folder / "processor_config.json").unlink()
    edit(folder, file, change)
    with pytest.raises(CompatibilityError) as error:
        check_compatibility(folder, student_folder)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_another_tower_family_is_refused(tmp_path, student_folder):
    teacher = make_model(tmp_path / "teacher", "clip-vit-large-patch14-336", "qwen2.5-3b")
    clipped = json.loads((teacher / "config.json").read_text())
    assert clipped["vision_config"]["model_type"] == "clip_vision_model"
    with pytest.raises(CompatibilityError, match="prepare pictures differently"):
        check_compatibility(teacher, student_folder)
