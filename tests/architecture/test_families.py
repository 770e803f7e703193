"""Families are data: what their files say of tensors is what transformers' models have, and the page says what they say."""

import pytest
from support.llava_models import make_checkpoint

from switchkd.architecture.architecture import Architecture
from switchkd.architecture.families import known
from switchkd.architecture.family import Language, Tower
from switchkd.export.checkpoint import Checkpoint


@pytest.mark.parametrize("vision", ["siglip-base-patch16-384", "clip-vit-large-patch14-336"])
@pytest.mark.parametrize("settings", [{}, {"head_dim": 32}], ids=["usual", "wide heads"])
def test_tensors_are_those_of_the_model(tmp_path, vision, settings):
    folder = make_checkpoint(tmp_path / "student", vision=vision, tied=False, text=settings)
    checkpoint = Checkpoint(folder)
    checkpoint.check_complete()  # names and shapes, none more and none less
    assert checkpoint.architecture.head_width == settings.get("head_dim", 16)
    assert len({tensor.gguf for tensor in (*checkpoint.vision_tensors, *checkpoint.language_tensors)}) == len(
        checkpoint.tensors
    )


def test_sizes_that_config_leaves_out_are_those_of_transformers():
    from transformers import AutoConfig

    for family in (*known(Tower), *known(Language)):
        theirs = AutoConfig.for_model(family.name).to_dict()
        ours = {name: value for name, value in family.defaults.items() if name in theirs}
        assert {name: theirs[name] for name in ours} == ours, family.name
        assert len(ours) > 4


def test_which_tokens_a_picture_becomes():
    vision = {"model_type": "clip_vision_model", "image_size": 56, "patch_size": 14}
    config = {"vision_config": vision, "text_config": {"model_type": "qwen2"}}
    assert Architecture.of(config).image_tokens == 16
    assert Architecture.of(config | {"vision_feature_select_strategy": "full"}).image_tokens == 17
    siglip = {**config, "vision_config": vision | {"model_type": "siglip_vision_model"}}
    assert Architecture.of(siglip).image_tokens == 15
    assert Architecture.of(siglip | {"vision_feature_select_strategy": "full"}).image_tokens == 16
