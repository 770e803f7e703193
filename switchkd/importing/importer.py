"""From somebody else's folder to one of today's form: recognised, understood, written, proved, moved into place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import GenerationConfig

from switchkd.architecture.weights import refuse_other_kinds
from switchkd.errors import CheckpointError, SkdError, first_line
from switchkd.files import replacing_folder
from switchkd.importing.known import recognise
from switchkd.importing.layout import Foreign, Source
from switchkd.importing.model import Model, understand
from switchkd.importing.proof import Proof, prove
from switchkd.importing.settings import read_config
from switchkd.importing.words import Words, add_image_token, read_words
from switchkd.importing.writer import write_weights
from switchkd.models.llava_processor import (
    default_image_processor,
    load_image_processor,
    load_tokenizer,
    new_processor,
    on_square,
    save_processor,
)
from switchkd.models.vlm import write_portable_config
from switchkd.preprocess import Preprocess

_MORE_TOKENS = 8  # than rows: these layouts' own code adds up to three when it opens a model


@dataclass(frozen=True)
class ImportRequest:
    """What to import, into what."""

    source: Path
    target: Path
    vision: Path | None = None  # a tower's folder, for sources that only name theirs
    tokenizer: Path | None = None  # for sources that bring none
    template: str | None = None  # None: what goes with the layout
    end_token: str | None = None  # None: the tokenizer's


@dataclass(frozen=True)
class Imported:
    """What was decided and found."""

    rows: list[tuple[str, str]]  # what → how
    proof: Proof


def run_import(request: ImportRequest, progress: Callable[[str], None] = lambda _: None) -> Imported:
    """Writes a model folder, whole or not at all.

    Args:
        progress: told what is being done.

    Raises:
        CheckpointError: what can't be imported, by name; nothing was written then. Or the folder isn't its source.
        SkdError: the folder can't be written.
    """
    _check_target(request)
    refuse_other_kinds(request.source)
    source = Source(request.source, read_config(request.source), request.vision, request.tokenizer)
    progress("reading the source")
    foreign = recognise(source).read(source)
    model = understand(foreign, source.folder)
    words = read_words(source.tokenizer_folder, request.end_token)
    template = request.template or foreign.template
    _check_words(words, model, template, source.tokenizer_folder)
    known = words.length
    image_token = add_image_token(words, foreign.image_token)
    rows = max(model.rows, words.length)
    pictures = _image_processor(foreign, model.vision, source.folder)
    with replacing_folder(request.target) as folder:
        _write_files(model, words, image_token, rows, template, pictures, folder)
        write_weights(model.entries(rows), folder, progress)
        progress("comparing with the source")
        proof = prove(model, folder)
        way = _way(Preprocess.load(folder))
    place = "its own" if image_token < known else "a spare row" if image_token < model.rows else "a new row"
    told = [
        *_told(model, words, way),
        ("template", f"{template}: {'asked for' if request.template else foreign.template_reason}"),
        ("image token", f"{words.tokenizer.id_to_token(image_token)} ({image_token}), {place}"),
        ("largest difference of logits", f"{proof.error:.1e} of the largest, {proof.positions} positions"),
    ]
    return Imported(told, proof)


def _check_target(request: ImportRequest) -> None:
    """Raises SkdError unless the folder may be written: nothing but a model folder is ever replaced."""
    target = request.target
    for folder in (request.source, request.vision, request.tokenizer):
        if folder is not None and folder.resolve().is_relative_to(target.resolve()):
            raise SkdError(f"{target} holds the source itself; choose another folder.")
    if target.exists() and not (target / "config.json").is_file() and (not target.is_dir() or any(target.iterdir())):
        raise SkdError(
            f"{target} is no model folder (it has no config.json), so it isn't replaced; choose another one."
        )


def _check_words(words: Words, model: Model, template: str, folder: Path) -> None:
    """Raises CheckpointError where a tokenizer can't be the model's, or lacks what the template writes."""
    if template == "vicuna" and "bos_token" not in words.special:
        raise CheckpointError(f"{folder} has no token that opens a text, which the template vicuna writes.")
    if words.length > model.rows + _MORE_TOKENS:
        raise CheckpointError(
            f"{folder} has {words.length} tokens, the model only {model.rows} rows: it is another model's tokenizer."
        )


def _write_files(
    model: Model, words: Words, image_token: int, rows: int, template: str, pictures: Any, folder: Path
) -> None:
    """All but the weights."""
    config = model.config(image_token, rows)
    for part in (config, config.text_config, config.vision_config):
        part.dtype = model.dtype
    write_portable_config(config, folder)
    words.save(folder)
    processor = new_processor(config, pictures, load_tokenizer(folder), template)
    save_processor(processor, folder)
    names = {name: words.special[name] for name in ("bos_token", "eos_token", "pad_token") if name in words.special}
    ids = {f"{name}_id": words.tokenizer.token_to_id(token) for name, token in names.items()}
    GenerationConfig(**ids).save_pretrained(folder)


def _image_processor(foreign: Foreign, vision: Any, folder: Path) -> Any:
    """The source's, else the tower's usual one; with the square where pictures are pasted on one first.

    Raises:
        CheckpointError: one that isn't known, or that makes pictures of another size than the tower takes.
    """
    where = foreign.preprocessor or folder
    try:
        found = load_image_processor(foreign.preprocessor) if foreign.preprocessor is not None else None
    except Exception as error:  # transformers raises all kinds
        raise CheckpointError(f"{where} has no usable preprocessor_config.json: {first_line(error)}") from error
    processor = found or default_image_processor(vision)
    if foreign.pads:
        processor = on_square(processor)
    made = Preprocess.from_config(processor.to_dict(), where)
    if (made.height, made.width) != (vision.image_size, vision.image_size):
        raise CheckpointError(
            f"{where} makes pictures of {made.width} × {made.height} pixels, but the tower takes {vision.image_size}."
        )
    return processor


def _way(preprocess: Preprocess) -> str:
    """How pictures come to the tower's size, for people."""
    size = f"{preprocess.width} × {preprocess.height}"
    if preprocess.pad:
        return f"pasted on a square of the mean's colour, {size}"
    return f"stretched to {size}" if preprocess.shortest_edge is None else f"the middle cut out, {size}"


def _told(model: Model, words: Words, way: str) -> list[tuple[str, str]]:
    """The decisions that don't depend on the token in a picture's place."""
    architecture, foreign = model.architecture, model.foreign
    vision, text = architecture.vision, architecture.text
    reading = "all tokens" if foreign.first_token else "all but the first"
    dtypes = sorted({str(stored.dtype).removeprefix("torch.") for stored in foreign.tensors.values()})
    return [
        ("layout", foreign.layout),
        (
            "language model",
            f"{architecture.language.title}, {text['num_hidden_layers']} blocks of {text['hidden_size']}, {model.rows} rows",
        ),
        (
            "vision tower",
            f"{architecture.tower.title}, {vision['num_hidden_layers']} blocks of {vision['hidden_size']}, "
            f"{vision['image_size']}/{vision['patch_size']}",
        ),
        ("projector", f"{foreign.connector}: {architecture.projector.title}"),
        ("tokens a picture", str(architecture.image_tokens)),
        ("features", f"hidden layer {foreign.feature_layer}, {reading}"),
        ("pictures", way),
        ("tokenizer", words.origin),
        ("end token", words.special["eos_token"]),
        ("precision", ", ".join(dtypes)),
        ("left out", f"{model.left_out} tensors of a pooling head" if model.left_out else "nothing"),
    ]
