"""Which hidden layers of a tower can feed the projector: the same for a new model, for training and for exports."""

import json
import shutil

import pytest
import torch
from support.training import train

from switchkd.architecture.architecture import used_blocks
from switchkd.errors import CheckpointError
from switchkd.export.checkpoint import Checkpoint
from switchkd.models.compatibility import check_compatibility
from switchkd.models.init import from_shapes
from switchkd.models.switch import as_student
from switchkd.models.vlm import load_vlm
from switchkd.training.trainer import freeze_parts

BLOCKS = 3  # of a shrunken tower
REASON = f"can't be read: the tower has the layers 1 to {BLOCKS}, or counted from its end -1 to -{BLOCKS}"


def reading(folder, layer, target):
    """A copy of a model folder that takes its features from another layer."""
    shutil.copytree(folder, target)
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(config | {"vision_feature_layer": layer}))
    return target


@pytest.mark.parametrize("layer", [0, BLOCKS + 1, 9, -BLOCKS - 1, -BLOCKS - 2])
def test_a_layer_that_no_block_makes_is_refused_everywhere(tmp_path, student_folder, teacher_folder, layer):
    """0 is the patches as they come in, and so is the one before the first from the end."""
    folder = reading(student_folder, layer, tmp_path / "student")
    model = as_student(load_vlm(folder))
    for place in (
        lambda: from_shapes("siglip-so400m-patch14-384", "qwen2.5-0.5b", feature_layer=layer, shrink=True),
        lambda: freeze_parts(model, ("projector",)),
        lambda: check_compatibility(teacher_folder, folder),
        lambda: Checkpoint(folder),
    ):
        with pytest.raises(CheckpointError, match=f"Feature layer {layer} {REASON}") as error:
            place()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("layer", [1, 2, 3, -1, -2, -3])
def test_what_the_others_can_be_trained_and_exported(tmp_path, student_folder, teacher_folder, layer):
    """Blocks after the layer get no gradient, and no export reads them; the layer is those blocks' result."""
    folder = reading(student_folder, layer, tmp_path / "student")
    check_compatibility(teacher_folder, folder)
    model = as_student(load_vlm(folder))
    freeze_parts(model, ("vision",))
    tower = model.model.vision_tower
    trained = [all(each.requires_grad for each in block.parameters()) for block in tower.encoder.layers]
    used = used_blocks(layer, BLOCKS)
    assert trained == [True] * used + [False] * (BLOCKS - used)
    reader = Checkpoint(folder)
    blocks = {name.split(".")[3] for name in reader.tensors if name.startswith("vision_tower.encoder.layers.")}
    assert reader.architecture.used_layers == used and blocks == {str(number) for number in range(used)}
    pixels = torch.randn(1, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        chosen = tower(pixels, output_hidden_states=True).hidden_states[layer]
        del tower.encoder.layers[used:]
        torch.testing.assert_close(tower(pixels, output_hidden_states=True).hidden_states[used], chosen)


def test_of_several_layers_the_deepest_counts():
    assert used_blocks([1, -2], 24) == used_blocks([-24, 23], 24) == 23
    assert used_blocks([0, 5], 24) == 5  # beside another, the patches are features like others
    for layers in ([], [0], [0, -25], [1, 25]):
        with pytest.raises(CheckpointError, match="can't be read"):
            used_blocks(layers, 24)


def test_training_such_a_student_is_one_line(tmp_path, student_folder, mixed_data):
    folder = reading(student_folder, 0, tmp_path / "student")
    with pytest.raises(CheckpointError, match=REASON):
        train(tmp_path / "s", folder, mixed_data, steps=1)
    assert not (tmp_path / "s" / "model").exists()
