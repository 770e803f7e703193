"""The small models with outliers compute what they did, from activations like a real model's."""

import pytest
import torch
from support.llava_models import make_checkpoint
from support.outliers import peak, product_inputs, rounding_error, with_outliers

from switchkd.models.vlm import load_vlm

SHAPES = {
    "siglip": {"tied": True, "feature_layer": -2},
    "clip": {"vision": "clip-vit-large-patch14-336", "tied": False, "feature_layer": -1},
}
# What reads a norm or values, and what reads a unit that is large for the first token.
SPREAD = ("q_proj", "k_proj", "v_proj", "o_proj", "out_proj", "gate_proj", "up_proj", "fc1")
UNITS = ("layers.0.mlp.down_proj", "layers.2.mlp.down_proj")


@pytest.fixture(scope="module", params=SHAPES)
def products(request, tmp_path_factory):
    """(name, the layer and what it reads [tokens, width] before, the same with outliers) of every linear layer."""
    folder = tmp_path_factory.mktemp("outliers")
    plain = make_checkpoint(folder / "plain", **SHAPES[request.param])
    both = []
    for each in (plain, with_outliers(plain, folder / "hard")):
        vlm = load_vlm(each)
        read = product_inputs(vlm, each)
        both.append({name: (layer, read[layer]) for name, layer in vlm.named_modules() if layer in read})
    before, after = both
    assert before.keys() == after.keys() and len(before) == 42  # 2 × 3 blocks, the projector and the head
    return [(name, before[name], after[name]) for name in before]


def test_float32_computes_the_same(products):
    """Every product's result, and so the logits; only values and up_proj speak louder themselves, as they are meant to."""
    with torch.no_grad():
        for name, (plain, before), (hard, after) in products:
            expected, found = plain(before), hard(after)
            if name.endswith(("v_proj", "up_proj")):
                louder = (found.abs() > 1.5 * expected.abs()).all(0)
                assert louder.sum() <= 1, name
                expected, found = expected[:, ~louder], found[:, ~louder]
            assert (found - expected).norm() <= 1e-6 * expected.norm(), name


def test_what_products_read_has_outliers(products):
    hard = {name: (layer, read) for name, _, (layer, read) in products}
    spread = {name: each for name, each in hard.items() if name.endswith(SPREAD)}
    units = {name: each for name, each in hard.items() if name.endswith(UNITS)}
    assert (len(spread), len(units)) == (3 * 5 + 3 * 6, 2)
    assert all(peak(read) > 15 for _, read in spread.values())
    assert all(peak(read) > 300 for _, read in units.values())
    # By tensor, 8 bits cost a tenth and a half of a result, as in the real model.
    assert max(rounding_error(*each) for each in spread.values()) > 0.07
    assert all(0.2 < rounding_error(*each) < 0.8 for each in units.values())
    # Without outliers they cost nothing worth mention.
    assert max(rounding_error(*each) for _, each, _ in products) < 0.04


def test_the_first_token_is_far_out(products):
    """As in the real model: with a scale for every token, the others keep their precision."""
    for name, _, (_, read) in products:
        if name.endswith(UNITS):
            largest = read.abs().max(dim=1).values  # [tokens]
            assert largest[0] > 1.5 * largest[1:].max() and largest[0] > 4 * largest.median(), name
