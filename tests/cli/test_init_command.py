"""`skd init`: the projector and the tokens that it reads, as asked for; the help tells what there is."""

import json
import re

import pytest
from click.testing import CliRunner

from switchkd.architecture.architecture import Architecture
from switchkd.architecture.families import known
from switchkd.architecture.family import Projector
from switchkd.cli.main import main

SHAPES = ("--random", "--shrink", "--vision", "siglip-so400m-patch14-384", "--language", "qwen2.5-0.5b")


def skd(*words: object):
    return CliRunner().invoke(main, ["init", *map(str, words)])


@pytest.mark.parametrize(
    ("words", "entries", "tokens"),
    [
        ((), {"model_type": "llava", "projector_type": None, "vision_feature_select_strategy": "full"}, 16),
        (("--feature-select", "default"), {"vision_feature_select_strategy": "default"}, 15),
        (("--projector", "mlp3"), {"model_type": "switchkd_llava", "projector_type": "mlp3"}, 16),
        (("--projector", "ldpv2"), {"projector_type": "ldpv2"}, 4),
        (
            ("--projector", "pixel_shuffle", "--projector-factor", 4, "--projector-layers", 2),
            {"projector_factor": 4, "projector_layers": 2},
            1,
        ),
        (("--projector", "average_pool"), {"projector_factor": 2, "projector_layers": None}, 4),
    ],
)
def test_a_new_model_is_what_was_asked_for(tmp_path, words, entries, tokens):
    result = skd(tmp_path / "model", *SHAPES, *words)
    assert result.exit_code == 0, (result.output, result.exception)
    written = json.loads((tmp_path / "model" / "config.json").read_text())
    assert {name: written.get(name) for name in entries} == entries
    assert Architecture.read(tmp_path / "model").image_tokens == tokens


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--projector-factor", 2), "The projector mlp has no setting projector_factor; its settings: none"),
        (("--projector", "pixel_shuffle", "--projector-factor", 3), "4 patches along a picture's side"),
        (("--projector", "ldpv2", "--feature-select", "default"), "every patch and no class token"),
    ],
)
def test_what_cannot_be_made_is_told_in_a_line(tmp_path, words, message):
    result = skd(tmp_path / "model", *SHAPES, *words)
    assert result.exit_code == 1 and message in result.output and len(result.output.splitlines()) == 1
    assert not (tmp_path / "model").exists()


def test_the_help_names_every_projector_with_its_settings():
    printed = re.sub(r"\s+", " ", skd("--help").output)
    settings = {name for family in known(Projector) for name in family.defaults if family.module is not None}
    for family in known(Projector):
        assert f"{family.name}: {family.title}" in printed
    assert settings == {"projector_factor", "projector_layers"}
    assert "average_pool (2), pixel_shuffle (2)" in printed and "pixel_shuffle (1)" in printed
