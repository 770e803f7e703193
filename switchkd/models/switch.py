"""The two pathways of Switch-KD through one pair of functions (paper, section 3.1, equations 2, 3 and 5).

A LLaVA model is a vision tower V, a projector P and a language model L. `vision_features` is V(x_v); `answer_pass` is
L(P(features), x_t). The teacher's, the student's and the switch's pass are the same call with other arguments:

    z^T      = answer_pass(teacher, vision_features(teacher, x_v), ...).logits
    z^S      = answer_pass(student, vision_features(student, x_v), ...).logits
    z^Switch = answer_pass(teacher, vision_features(student, x_v), ...).logits
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from switchkd.data.llava import IGNORED
from switchkd.errors import RecipeError
from switchkd.models.passes import NOTHING, Asked, Pass


def vision_features(vlm: LlavaForConditionalGeneration, pixel_values: Tensor) -> Tensor:
    """The vision tower's features, before the projector: pixels [I, 3, H, W] → [I, P, W_v].

    The hidden layer (or layers, concatenated) and the treatment of a class token are the checkpoint's own.
    """
    layer, strategy = vlm.config.vision_feature_layer, vlm.config.vision_feature_select_strategy
    hidden = vlm.model.vision_tower(pixel_values, output_hidden_states=True, return_dict=True).hidden_states
    chosen = [hidden[index] for index in ([layer] if isinstance(layer, int) else layer)]
    if strategy == "default":
        chosen = [features[:, 1:] for features in chosen]
    return torch.cat(chosen, dim=-1)  # [I, P, W_v]


def answer_positions(labels: Tensor) -> Tensor:
    """Positions whose next token is supervised, after the causal shift: labels [B, T] → bool [B, T-1]."""
    return labels[:, 1:] != IGNORED


def embed(
    vlm: LlavaForConditionalGeneration,
    features: Tensor | None,
    input_ids: Tensor,
    image_mask: Tensor,
    idle: bool = False,
) -> Tensor:
    """What the language model reads: the text's embeddings, and the projected features where `image_mask` is, [B, T, W].

    Raises:
        ValueError: the placeholders and the features differ in number.
    """
    # The placeholder may lie outside the teacher's vocabulary; its embedding is replaced in any case.
    embeds = vlm.get_input_embeddings()(input_ids.masked_fill(image_mask, 0))  # [B, T, W]
    projected = None if features is None else vlm.model.multi_modal_projector(features).to(embeds.dtype)  # [I, P', W]
    expected = 0 if projected is None else projected.shape[:2].numel()
    # masked_scatter silently ignores surplus features, so they are counted.
    if int(image_mask.sum()) != (0 if idle else expected):
        raise ValueError(f"{int(image_mask.sum())} image tokens for {expected} image features")
    if projected is None:
        return embeds
    return embeds.masked_scatter(image_mask.unsqueeze(-1), projected)


def answer_pass(
    vlm: LlavaForConditionalGeneration,
    features: Tensor | None,
    input_ids: Tensor,
    attention_mask: Tensor,
    answers: Tensor,
    *,
    image_token_id: int | None = None,
    rows: int | None = None,
    idle: bool = False,
    asked: Asked = NOTHING,
) -> Pass:
    """Next-token logits at the answer positions alone (the head never sees the rest), and what else is asked for.

    Args:
        features: [I, P, W_v] of the samples' pictures, in order, or None for text alone.
        input_ids: [B, T]; the image placeholder stands P' times a picture, as often as the projector makes tokens of P.
        attention_mask: [B, T].
        answers: bool [B, T-1] from `answer_positions`.
        image_token_id: the placeholder in `input_ids`, where it isn't this model's own.
        rows: keep the first `rows` entries of the vocabulary: the tokenizer's real length.
        idle: the features belong to no placeholder; they change no logit and get gradients of zero.
        asked: attentions make the model compute by the one implementation that returns them, from then on.

    Returns:
        Logits [A, rows] with A = answers.sum(), in row-major order of `answers`.

    Raises:
        ValueError: the placeholders and the features differ in number.
        RecipeError: a layer that the model doesn't have is asked for.
    """
    image_mask = input_ids == (vlm.config.image_token_id if image_token_id is None else image_token_id)  # [B, T]
    embeds = embed(vlm, features, input_ids, image_mask, idle)
    language: Any = vlm.model.language_model
    kept = {}  # nothing is named that isn't asked for
    if asked.image_hidden:
        kept["output_hidden_states"] = True
    if asked.attentions:
        kept["output_attentions"] = True
        if language.config._attn_implementation != "eager":
            language.set_attn_implementation("eager")
    output = language(inputs_embeds=embeds, attention_mask=attention_mask, use_cache=False, **kept)
    logits = vlm.lm_head(output.last_hidden_state[:, :-1][answers])[:, :rows]  # [A, rows]
    if features is None or idle:
        return Pass(logits)
    hidden, attentions = _chosen(output.hidden_states, asked.image_hidden), _chosen(output.attentions, asked.attentions)
    answers = answers & image_mask.any(1, keepdim=True)
    return Pass(
        logits,
        features,
        {layer: states[image_mask].unflatten(0, (len(features), -1)) for layer, states in hidden.items()},
        {layer: _to_pictures(weights, image_mask, answers) for layer, weights in attentions.items()},
    )


def _chosen(layers: tuple[Tensor, ...] | None, asked: frozenset[int]) -> dict[int, Tensor]:
    count = len(layers or ())
    if missing := [layer for layer in asked if not -count <= layer < count]:
        raise RecipeError(f"A loss term asks for layer {missing[0]} of a model whose layers are 0 to {count - 1}.")
    return {layer: layers[layer] for layer in asked} if layers else {}


def _to_pictures(weights: Tensor, image_mask: Tensor, answers: Tensor) -> Tensor:
    """Attention [B, heads, T, T] from the answers' positions to the tokens of their samples' pictures, in order: [A', heads, P'],
    with zeros behind those of samples with fewer pictures than others."""
    to_all = weights[:, :, :-1].transpose(1, 2)[answers]  # [A', heads, T]
    counts = image_mask.sum(1, keepdim=True)  # [B, 1]
    first = image_mask.long().argsort(dim=1, descending=True, stable=True)[:, : int(counts.max())]  # [B, P']
    there = torch.arange(first.shape[1], device=first.device) < counts  # [B, P']
    sample = torch.arange(len(first), device=first.device).unsqueeze(1).expand_as(answers)[answers]  # [A']
    columns = first[sample].unsqueeze(1).expand(-1, to_all.shape[1], -1)  # [A', heads, P']
    return to_all.gather(-1, columns) * there[sample].unsqueeze(1)


class SwitchStudent(LlavaForConditionalGeneration):
    """A LLaVA student whose forward returns what a training step needs: answer logits, the tower's features for the switch,
    and what the losses ask for, from one pass of the tower. It adds no parameter and no state, and is saved as plain LLaVA."""

    # Data-parallel processes reduce gradients of all parameters, in the order in which the backward pass makes them.
    # Where this is set, text alone goes the same way as a picture: a black one is seen, and stands nowhere.
    always_look = False

    def forward(self, input_ids, attention_mask, labels, pixel_values=None, rows=None, asked=NOTHING, **_) -> Pass:  # type: ignore[override]
        """See `answer_pass`."""
        nothing_to_see = pixel_values is None
        if nothing_to_see and self.always_look:
            side = self.model.vision_tower.config.image_size
            pixel_values = torch.zeros(1, 3, side, side, device=input_ids.device)
        features = None if pixel_values is None else vision_features(self, pixel_values.to(self.dtype))
        answers = answer_positions(labels)
        return answer_pass(
            self, features, input_ids, attention_mask, answers, rows=rows, idle=nothing_to_see, asked=asked
        )


def as_student(vlm: LlavaForConditionalGeneration) -> SwitchStudent:
    """The same model, with a student's forward. (Loaded as a class of another name, transformers would look for its
    weights under other names, and lose an untied head.)"""
    vlm.__class__ = SwitchStudent
    return cast(SwitchStudent, vlm)


class Switch(torch.nn.Module):
    """The frozen teacher's side: its own logits, and those it gives when it looks through the student's tower.

    Args:
        teacher: any LLaVA model; it is frozen here (no parameter gets a gradient), but stays differentiable.
        image_token_id: the placeholder in the student's input ids.
        rows: the tokenizer's real length; rows of the embedding beyond it are untrained padding.
    """

    def __init__(self, teacher: LlavaForConditionalGeneration, image_token_id: int, rows: int):
        super().__init__()
        self.teacher = teacher.eval().requires_grad_(False)
        self.image_token_id = image_token_id
        self.rows = rows

    def checkpoint_gradients(self) -> None:
        """Recomputes the teacher's activations in the switch's backward pass instead of keeping them.

        transformers recomputes in training mode only, which changes nothing else where the dropouts are zero.

        Raises:
            ValueError: the teacher's language model has dropout.
        """
        language = self.teacher.model.language_model
        if language.config.attention_dropout:
            raise ValueError("a teacher with attention dropout can't be recomputed")
        language.gradient_checkpointing_enable({"use_reentrant": False})
        language.train()

    @torch.no_grad()
    def teacher_pass(self, batch: dict[str, Tensor], asked: Asked = NOTHING) -> Pass:
        """With z^T [A, rows], equation 2; no graph."""
        pixels = batch.get("pixel_values")
        features = None if pixels is None else vision_features(self.teacher, pixels.to(self.teacher.dtype))
        return self._answer(features, asked, batch["input_ids"], batch["attention_mask"], batch["labels"])

    def switch_pass(
        self, features: Tensor | None, batch: dict[str, Tensor], asked: Asked = NOTHING
    ) -> tuple[Pass | None, Tensor]:
        """With z^Switch, equation 5, for the samples with a picture: text alone passes no tower and needs no switch.

        Returns:
            (the pass with logits [A', rows], or None where no sample has a picture; which of the A answer positions they
            belong to [A]).
        """
        rows = (batch["input_ids"] == self.image_token_id).any(dim=1)  # [B]
        answers = answer_positions(batch["labels"])  # [B, T-1]
        owner = rows.unsqueeze(1).expand_as(answers)[answers]  # [A]
        if features is None:
            return None, owner
        with_picture = {key: batch[key][rows] for key in ("input_ids", "attention_mask", "labels")}
        return self._answer(features.to(self.teacher.dtype), asked, **with_picture), owner

    def _answer(
        self, features: Tensor | None, asked: Asked, input_ids: Tensor, attention_mask: Tensor, labels: Tensor
    ) -> Pass:
        text = (input_ids, attention_mask, answer_positions(labels))
        return answer_pass(
            self.teacher, features, *text, image_token_id=self.image_token_id, rows=self.rows, asked=asked
        )
