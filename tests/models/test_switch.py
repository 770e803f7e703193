"""The two pathways against stock forwards and a literal transcription of the paper's Algorithm 1."""

import pytest
import torch
from support.llava_models import make_model
from support.training import make_batch

from switchkd.errors import RecipeError
from switchkd.losses.objective import Objective
from switchkd.models.passes import Asked, Passes
from switchkd.models.switch import Switch, answer_pass, answer_positions, as_student, vision_features
from switchkd.models.vlm import load_vlm
from switchkd.prompt import ChatPrompt
from switchkd.recipes.recipe import Distillation, Stage


@pytest.fixture
def batch(student_folder, mixed_data):
    return make_batch(student_folder, mixed_data)


@pytest.fixture
def student(student_folder):
    return as_student(load_vlm(student_folder))


@pytest.fixture
def switch(teacher_folder, student_folder):
    prompt = ChatPrompt.load(student_folder)
    return Switch(load_vlm(teacher_folder), prompt.image_token_id, prompt.length)


def stock_logits(vlm, batch):
    """Next-token logits at the supervised positions by transformers' own forward. [A, V]"""
    logits = vlm(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        pixel_values=batch.get("pixel_values"),
    ).logits
    return logits[:, :-1][answer_positions(batch["labels"])]


@pytest.mark.parametrize(
    ("vision", "language", "layer"),
    [
        ("siglip-so400m-patch14-384", "qwen2.5-0.5b", -1),
        ("siglip-so400m-patch14-384", "qwen2.5-7b", -2),
        ("clip-vit-large-patch14-336", "qwen2.5-1.5b", -2),
        ("siglip-so400m-patch14-384", "tinyllama-1.1b", -2),
        ("clip-vit-large-patch14-336", "llama-3.2-1b", -2),
        ("siglip-base-patch16-384", "qwen3-0.6b", -2),
    ],
)
def test_answer_logits_equal_the_stock_forward(tmp_path, mixed_data, vision, language, layer):
    folder = make_model(tmp_path / "model", vision, language, feature_layer=layer)
    batch, vlm = make_batch(folder, mixed_data), load_vlm(folder)
    with torch.no_grad():
        ours = answer_pass(
            vlm,
            vision_features(vlm, batch["pixel_values"]),
            batch["input_ids"],
            batch["attention_mask"],
            answer_positions(batch["labels"]),
        ).logits
        torch.testing.assert_close(ours, stock_logits(vlm, batch), rtol=0, atol=1e-6)


@pytest.mark.parametrize("language", ["qwen2.5-0.5b", "mobilellama-1.4b", "smollm2-135m", "qwen3-0.6b"])
def test_gradients_are_those_of_the_stock_loss(tmp_path, mixed_data, language):
    folder = make_model(tmp_path / "model", "siglip-so400m-patch14-384", language, feature_layer=-2)
    batch, ours, theirs = make_batch(folder, mixed_data), as_student(load_vlm(folder)), load_vlm(folder)
    labels = batch["labels"][:, 1:]
    logits = ours(**batch).logits
    torch.nn.functional.cross_entropy(logits, labels[answer_positions(batch["labels"])]).backward()
    theirs(**batch).loss.backward()
    expected = dict(theirs.named_parameters())
    assert all(parameter.grad is not None for name, parameter in expected.items() if "language_model" in name)
    for name, parameter in ours.named_parameters():
        if expected[name].grad is not None:
            torch.testing.assert_close(parameter.grad, expected[name].grad, rtol=1e-4, atol=1e-6)


def test_switch_logits_are_the_teacher_seeing_through_the_student(student, switch, batch):
    """Putting the student's tower into the teacher and running the stock forward gives z^Switch."""
    seen, rows = switch.switch_pass(student(**batch).features, batch)
    hybrid = switch.teacher
    original = hybrid.model.vision_tower
    hybrid.model.vision_tower = student.model.vision_tower
    expected = stock_logits(hybrid, batch)[:, : switch.rows]
    hybrid.model.vision_tower = original
    torch.testing.assert_close(seen.logits, expected[rows], rtol=0, atol=1e-5)
    # Text alone passes no tower: the switch would only repeat the teacher.
    torch.testing.assert_close(switch.teacher_pass(batch).logits[~rows], expected[~rows], rtol=0, atol=1e-5)
    assert 0 < int(rows.sum()) < len(rows)


def test_vsd_reaches_the_students_tower_alone(student, switch, batch):
    own = student(**batch, rows=switch.rows)
    targets = batch["labels"][:, 1:][answer_positions(batch["labels"])]
    passes = Passes(own, targets, switch.teacher_pass(batch), *switch.switch_pass(own.features, batch))
    Objective(Distillation(), Stage(distill=True))(passes).terms["vsd"].backward()
    used = student.model.vision_tower.encoder.layers[:-1]
    assert all(
        parameter.grad.abs().sum() > 0 for name, parameter in used.named_parameters() if "k_proj.bias" not in name
    )
    for part in (student.model.multi_modal_projector, student.model.language_model):
        assert all(parameter.grad is None for parameter in part.parameters())
    assert all(parameter.grad is None for parameter in switch.teacher.parameters())


def test_gradient_of_the_switch_is_the_derivative(student, switch, batch):
    """A step against the gradient in the tower lowers the term by its squared length."""

    def vsd():
        seen, rows = switch.switch_pass(student(**batch).features, batch)
        zeros = torch.zeros(int(rows.shape[0]), dtype=torch.long)
        teacher = switch.teacher_pass(batch)
        # A smooth divergence: the knee jumps.
        objective = Objective(Distillation(method="fkl"), Stage(distill=True))
        return objective(Passes(teacher, zeros, teacher, seen, rows)).terms["vsd"]

    parameters = [parameter for parameter in student.model.vision_tower.parameters() if parameter.requires_grad]
    value = vsd()
    gradients = torch.autograd.grad(value, parameters, allow_unused=True)
    square = sum(float(gradient.pow(2).sum()) for gradient in gradients if gradient is not None)
    step = 1e-3 * float(value.detach()) / square
    changed = []
    for sign in (-1, 2):
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                if gradient is not None:
                    parameter += sign * step * gradient
        changed.append(float(vsd()))
    slope = (changed[1] - changed[0]) / (2 * step)
    assert slope == pytest.approx(square, rel=0.05)


def test_the_tower_runs_once_and_not_for_text(student_folder, student, switch, mixed_data):
    calls = []
    student.model.vision_tower.register_forward_hook(lambda *_: calls.append(1))
    batch = make_batch(student_folder, mixed_data)
    switch.switch_pass(student(**batch).features, batch)
    assert len(calls) == 1
    text = make_batch(student_folder, mixed_data, rows=[6, 7])
    features = student(**text).features
    seen, rows = switch.switch_pass(features, text)
    assert len(calls) == 1 and features is None and seen is None and not rows.any()


def test_text_alone_has_gradients_of_zero_where_processes_wait_for_them(student_folder, student, mixed_data):
    text = make_batch(student_folder, mixed_data, rows=[6, 7])
    plain = student(**text)
    student.always_look = True
    seen = student(**text)
    assert seen.features is None and torch.equal(seen.logits, plain.logits)
    seen.logits.sum().backward()
    for part in (student.model.vision_tower.embeddings, student.model.multi_modal_projector):
        assert all(parameter.grad is not None and not parameter.grad.any() for parameter in part.parameters())


def test_a_teacher_with_another_image_token(student, switch, batch, teacher_folder):
    """The teacher's placeholder may be another token: features replace its embedding in any case."""
    expected = switch.teacher_pass(batch).logits
    switch.teacher.config.image_token_id = 3
    torch.testing.assert_close(switch.teacher_pass(batch).logits, expected, rtol=0, atol=0)


def test_surplus_features_are_refused(student, batch):
    features = vision_features(student, torch.cat([batch["pixel_values"], batch["pixel_values"][:1]]))
    with pytest.raises(ValueError, match="image tokens for"):
        answer_pass(student, features, batch["input_ids"], batch["attention_mask"], answer_positions(batch["labels"]))


def test_recomputed_activations_give_the_same_gradient(student, switch, batch):
    def tower_gradient():
        student.zero_grad()
        seen, _ = switch.switch_pass(student(**batch).features, batch)
        seen.logits.float().logsumexp(-1).sum().backward()
        return student.model.vision_tower.embeddings.patch_embedding.weight.grad.clone()

    kept = tower_gradient()
    switch.checkpoint_gradients()
    torch.testing.assert_close(tower_gradient(), kept)
    assert all(parameter.grad is None for parameter in switch.teacher.parameters())


def test_what_is_asked_for_equals_the_stock_forward(student_folder, batch):
    """Hidden states of the pictures' tokens, and attention from the answers to their own picture."""
    vlm = load_vlm(student_folder)
    answers = answer_positions(batch["labels"])
    asked = Asked(frozenset({0, -1}), frozenset({1}))
    with torch.no_grad():
        features = vision_features(vlm, batch["pixel_values"])
        ours = answer_pass(vlm, features, batch["input_ids"], batch["attention_mask"], answers, asked=asked)
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "pixel_values")}
        stock = vlm(**inputs, output_hidden_states=True, output_attentions=True)
    picture = batch["input_ids"] == vlm.config.image_token_id
    assert set(ours.image_hidden) == {0, -1} and set(ours.attentions) == {1}
    for layer, states in ours.image_hidden.items():
        expected = [stock.hidden_states[layer][row][picture[row]] for row in range(len(picture)) if picture[row].any()]
        torch.testing.assert_close(states, torch.stack(expected))
    expected = [
        stock.attentions[1][row, :, place][:, picture[row]] for row, place in answers.nonzero() if picture[row].any()
    ]
    torch.testing.assert_close(ours.attentions[1], torch.stack(expected))
    with pytest.raises(RecipeError, match="asks for layer 9 of a model whose layers are 0 to 3"):
        answer_pass(vlm, features, batch["input_ids"], batch["attention_mask"], answers, asked=Asked(frozenset({9})))
