"""Every projector against its definition; the folder of each is one that transformers' Auto classes load."""

import json
import shutil
import sys

import pytest
import torch
from support.llava_models import make_checkpoint, picture, question
from support.projectors import CLIP, PROJECTORS, TOKENS, literal
from support.training import make_batch, train
from transformers import AutoModelForImageTextToText, AutoProcessor

from switchkd.architecture.architecture import Architecture
from switchkd.errors import CheckpointError, CompatibilityError
from switchkd.models.compatibility import check_compatibility
from switchkd.models.switch import Switch, as_student, vision_features
from switchkd.models.vlm import load_vlm, save_vlm
from switchkd.prompt import ChatPrompt


@pytest.fixture(params=PROJECTORS)
def name(request):
    return request.param


@pytest.fixture
def folder(shelf, name):
    return shelf.checkpoint(feature_layer=-2, **PROJECTORS[name])


def test_it_computes_what_it_is_defined_as(folder, name):
    """Tokens, and after one step of training the very weights."""
    vlm = load_vlm(folder)
    projector = vlm.model.multi_modal_projector.double()
    read = Architecture.read(folder).read_tokens
    features = torch.randn(2, read, 96, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    weights = {key: value.detach().clone().requires_grad_() for key, value in projector.state_dict().items()}
    assert all(value.abs().max() > 0 for value in weights.values())
    made, expected = projector(features), literal(name, weights, features)
    assert made.shape == (2, TOKENS.get(name, read), 64)
    torch.testing.assert_close(made, expected, rtol=1e-9, atol=1e-9)
    for each in (made, expected):
        each.square().mean().backward()
    for key, parameter in projector.named_parameters():
        torch.testing.assert_close(parameter.grad, weights[key].grad, rtol=1e-7, atol=1e-12)
        assert parameter.grad.abs().max() > 0, key


@pytest.mark.parametrize("factor", [2, 3])
def test_pixel_shuffle_is_that_of_idefics3(factor):
    from transformers.models.idefics3.modeling_idefics3 import Idefics3Connector

    from switchkd.models.grid import Shuffle

    tokens = torch.randn(2, 36, 5)
    expected = Idefics3Connector.pixel_shuffle(None, tokens, factor)
    torch.testing.assert_close(Shuffle(6, factor)(tokens), expected, rtol=0, atol=0)


def test_transformers_loads_and_runs_its_folder(folder, name):
    model, report = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    written = json.loads((folder / "config.json").read_text())
    assert written["model_type"] == ("llava" if name == "mlp" else "switchkd_llava")
    assert written["architectures"] == [type(model).__name__]
    ours = load_vlm(folder)
    assert type(ours) is type(model)
    for key, tensor in ours.state_dict().items():
        torch.testing.assert_close(model.state_dict()[key], tensor, rtol=0, atol=0)

    processor, prompt, of = AutoProcessor.from_pretrained(folder), ChatPrompt.load(folder), Architecture.read(folder)
    assert of.image_tokens == TOKENS.get(name, of.read_tokens) == written["image_seq_length"]
    text = processor.apply_chat_template(question(), add_generation_prompt=True)
    inputs = processor(images=picture(), text=text, return_tensors="pt")
    ids = prompt.encode(question(), image_tokens=of.image_tokens, add_generation_prompt=True).ids
    assert inputs["input_ids"][0].tolist() == ids
    answer = model.generate(**inputs, max_new_tokens=3, do_sample=False)
    assert answer.shape[1] > len(ids)
    if name != "mlp":  # LLaVA's own asks for a crop, which SigLIP's processor has none of
        assert processor._get_num_multimodal_tokens(image_sizes=[(60, 90)]).num_image_tokens == [of.image_tokens]


def test_its_folder_is_written_again_as_it_was(tmp_path, folder):
    save_vlm(load_vlm(folder), tmp_path / "again", folder)
    for file in ("config.json", "processor_config.json", "model.safetensors"):
        if (folder / file).exists():
            assert (tmp_path / "again" / file).read_bytes() == (folder / file).read_bytes(), file


def test_a_folder_that_says_llava_and_names_a_projector_loads_too(tmp_path, shelf):
    older = shutil.copytree(shelf.checkpoint(feature_layer=-2, **PROJECTORS["mlp1"]), tmp_path / "older")
    config = json.loads((older / "config.json").read_text())
    (older / "config.json").write_text(json.dumps(config | {"model_type": "llava"}))
    assert not hasattr(load_vlm(older).model.multi_modal_projector, "linear_2")


def test_its_tokens_and_tensors_are_known_without_torch(folder, name, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    of = Architecture.read(folder)
    assert of.image_tokens == TOKENS.get(name, of.read_tokens)
    assert [tensor for tensor in of.vision_tensors() if tensor.name.startswith("multi_modal_projector.")]


REFUSED = [
    ({"projector": "pixel_shuffle", "projector_settings": {"projector_factor": 3}}, "4 patches .* doesn't divide"),
    ({"projector": "pixel_shuffle", "projector_settings": {"projector_factor": 5}}, "can be 2 or 3 or 4"),
    ({"projector": "average_pool", "projector_settings": {"projector_factor": "2"}}, "projector_factor '2'"),
    ({"projector": "pixel_shuffle", "projector_settings": {"projector_layers": 3}}, "can be 1 or 2"),
    ({"projector": "mlp", "projector_settings": {"projector_factor": 2}}, "mlp has no setting projector_factor"),
    ({"projector": "ldpv2", "projector_settings": {"projector_layers": 2}}, "ldpv2 has no setting projector_layers"),
    ({"projector": "ldpv2", "image_size": 3 * 14}, "3 patches .* needs an even number"),
    ({"projector": "ldpv2", "feature_select": "default"}, "reads every patch and no class token, .* SigLIP is 'full'"),
    ({"projector": "average_pool", "vision": CLIP, "feature_select": "full"}, "for CLIP is 'default'"),
    ({"projector": "resampler"}, "'resampler'; supported are average_pool, ldpv2, mlp"),
]


@pytest.mark.parametrize(("settings", "reason"), REFUSED, ids=lambda value: value if isinstance(value, str) else "")
def test_what_it_cannot_compute_with_is_refused_when_it_is_made(tmp_path, settings, reason):
    with pytest.raises(CheckpointError, match=reason) as error:
        make_checkpoint(tmp_path / "model", **settings)
    assert "\n" not in str(error.value) and not (tmp_path / "model").exists()


def test_it_is_refused_when_it_is_read_too(tmp_path, shelf):
    folder = shutil.copytree(shelf.checkpoint(feature_layer=-2, **PROJECTORS["ldpv2"]), tmp_path / "changed")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vision_feature_select_strategy": "full"}))
    for read in (load_vlm, Architecture.read):
        with pytest.raises(CheckpointError, match="reads every patch and no class token"):
            read(folder)


@pytest.fixture
def pair(shelf):
    """A teacher with LDPv2 and a wider student with pixel shuffle."""
    return (
        shelf.checkpoint(feature_layer=-2, **PROJECTORS["ldpv2"]),
        shelf.checkpoint(feature_layer=-2, vision=CLIP, projector="pixel_shuffle", width=96),
    )


def test_teacher_and_student_may_make_their_tokens_differently(pair, mixed_data):
    """The switch: the teacher's projector on the student's features, as the teacher with the student's tower would compute."""
    teacher, student = pair
    check_compatibility(teacher, student)
    batch, prompt = make_batch(student, mixed_data), ChatPrompt.load(student)
    own = as_student(load_vlm(student))(**batch, rows=prompt.length)
    assert own.features.shape[1] == 16 and own.logits.requires_grad
    switch = Switch(load_vlm(teacher), prompt.image_token_id, prompt.length)
    seen, rows = switch.switch_pass(own.features, batch)
    hybrid = load_vlm(teacher)
    hybrid.model.vision_tower = load_vlm(student).model.vision_tower
    with torch.no_grad():
        features = vision_features(hybrid, batch["pixel_values"])
        expected, _ = Switch(hybrid, prompt.image_token_id, prompt.length).switch_pass(features, batch)
    torch.testing.assert_close(seen.logits, expected.logits, rtol=0, atol=1e-5)
    assert int(rows.sum()) > 0


def test_unequal_numbers_of_tokens_are_refused(shelf, pair):
    plain = shelf.checkpoint(feature_layer=-2, vision=CLIP)
    with pytest.raises(CompatibilityError, match="A picture is 4 tokens for the teacher and 16 for the student"):
        check_compatibility(pair[0], plain)
    fine = shelf.checkpoint(feature_layer=-2, vision=CLIP, projector="average_pool", image_size=8 * 14)
    fewer = shelf.checkpoint(feature_layer=-2, vision=CLIP)
    with pytest.raises(CompatibilityError, match="reads 64 of the tower's tokens, the student's 16"):
        check_compatibility(fine, fewer)


@pytest.mark.parametrize(
    ("vision", "tokens"),
    [("siglip-so400m-patch14-384", {"default": 15, "full": 16}), (CLIP, {"default": 16, "full": 17})],
)
@pytest.mark.parametrize("select", ["default", "full"])
def test_every_selection_of_tokens_is_the_processors(shelf, vision, tokens, select):
    folder = shelf.checkpoint(vision=vision, feature_layer=-2, feature_select=select)
    of, vlm, processor = Architecture.read(folder), load_vlm(folder), AutoProcessor.from_pretrained(folder)
    inputs = processor(images=picture(), text=processor.image_token, return_tensors="pt")
    assert int((inputs["input_ids"] == vlm.config.image_token_id).sum()) == of.image_tokens == tokens[select]
    features = vision_features(vlm, inputs["pixel_values"])
    assert features.shape[1] == of.read_tokens == tokens[select]


def test_a_student_is_distilled_from_a_teacher_with_another_projector(tmp_path, pair, mixed_data):
    teacher, student = pair
    trained = load_vlm(train(tmp_path / "run", student, mixed_data, teacher=teacher, steps=2))
    after = trained.model.multi_modal_projector.state_dict()
    for name, tensor in load_vlm(student).model.multi_modal_projector.state_dict().items():
        assert (after[name] != tensor).any(), name
