"""Picture to pixels: exactly what a checkpoint's image processor in transformers does, with Pillow and numpy only.

Two stages, because llama.cpp takes the first one's result: `resize` gives bytes, `normalize` gives the floats that a
vision tower reads. Both equal the towers' image processors in transformers (Pillow backend) bit by bit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from switchkd.architecture.families import known
from switchkd.architecture.family import Tower
from switchkd.errors import CheckpointError
from switchkd.files import read_json
from switchkd.pictures import check_size, to_rgb

PADDING = "LlavaImageProcessor"  # transformers' name of the one that can paste pictures on a square


@dataclass(frozen=True)
class Change:
    """What resizing does to a picture of some shape."""

    stretched: float  # how much more one side is scaled than the other; 1 keeps the shape
    lost: float  # share of the picture that is cut off
    filled: float  # share of what the model sees that is padding


@dataclass(frozen=True)
class Preprocess:
    """A checkpoint's way from a picture to `pixel_values`."""

    height: int  # of the result, in pixels
    width: int
    shortest_edge: int | None  # None: stretch to height × width; else resize to it, then crop the centre
    resample: int  # Pillow's filter: 2 bilinear, 3 bicubic
    rescale_factor: float  # 1/255: bytes to 0 … 1
    mean: tuple[float, float, float]  # subtracted after rescaling, red, green, blue
    std: tuple[float, float, float]  # divided by afterwards
    pad: bool = False  # first paste the picture in the middle of a square of the mean's colour

    @classmethod
    def load(cls, folder: Path | str) -> Preprocess:
        """Reads the image_processor part of processor_config.json, else preprocessor_config.json: transformers' order.

        Raises:
            CheckpointError: neither is there, one is torn, or it asks for what this class doesn't do.
        """
        folder = Path(folder)
        for name, part in (("processor_config.json", "image_processor"), ("preprocessor_config.json", None)):
            path = folder / name
            try:
                config = read_json(path, CheckpointError)
            except FileNotFoundError:
                continue
            config = config if part is None or not isinstance(config, dict) else config.get(part)
            if config is not None:
                return cls.from_config(config, path)
        raise CheckpointError(
            f"{folder} has no preprocessor_config.json; save the checkpoint with its image processor."
        )

    @classmethod
    def from_config(cls, config: Mapping[str, Any], source: Path | str = "preprocessor_config.json") -> Preprocess:
        """Reads the fields of a transformers image processor.

        Raises:
            CheckpointError: a kind or a setting that this class doesn't do, by name; a field missing or wrong.
        """
        if not isinstance(config, Mapping):
            raise CheckpointError(f"{source} isn't a JSON object.")
        named = config.get("image_processor_type") or config.get("feature_extractor_type")  # the latter before 2023
        kind = str(named).replace("FeatureExtractor", "ImageProcessor").removesuffix("Fast").removesuffix("Pil")
        crops = {**{tower.processor_class: tower.crops for tower in known(Tower)}, PADDING: True}
        if kind not in crops:
            raise CheckpointError(
                f"{source}: image_processor_type {named} isn't supported, only {' and '.join(crops)}."
            )
        wanted = {"do_resize": True, "do_rescale": True, "do_normalize": True}
        wanted |= {} if kind == PADDING else {"do_pad": False}
        for name, value in wanted.items():
            if (config.get(name, value) or False) is not value:
                raise CheckpointError(f"{source}: {name} = {config[name]} isn't supported, only {value}.")
        try:
            height, width, shortest_edge = _geometry(config, crops[kind])
            return cls(
                height=height,
                width=width,
                shortest_edge=shortest_edge,
                resample=int(Image.Resampling(config["resample"])),
                rescale_factor=_finite(config.get("rescale_factor", 1 / 255)),
                mean=_three(config["image_mean"]),
                std=_three(config["image_std"], divides=True),
                pad=bool(config.get("do_pad")),
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise CheckpointError(f"{source} can't be used: {reason}.") from error

    def __call__(self, image: Image.Image) -> NDArray[np.float32]:
        """A picture's pixel_values: [3, height, width] float32. Raises DataError as `resize`."""
        return self.normalize(self.resize(image))

    def resize(self, image: Image.Image) -> NDArray[np.uint8]:
        """The first stage: [height, width, 3] bytes, red, green, blue, top row first.

        Raises:
            DataError: a picture too large or too narrow to resize, or of a mode that has no colours.
        """
        check_size(image.size, "The picture")
        image = to_rgb(image)
        if self.pad:
            image = _on_square(image, self.mean)
        if self.shortest_edge is None:
            return np.array(image.resize((self.width, self.height), self.resample))
        scale_to, (width, height) = self.shortest_edge, image.size
        short, long = scale_to, int(scale_to * max(width, height) / min(width, height))
        image = image.resize((short, long) if width <= height else (long, short), self.resample)
        left, top = (image.width - self.width) // 2, (image.height - self.height) // 2
        return np.array(image.crop((left, top, left + self.width, top + self.height)))

    def change(self, size: tuple[int, int]) -> Change:
        """What `resize` does to a picture of (width, height) pixels, but for rounding."""
        width, height = size
        filled = 1 - min(size) / max(size) if self.pad else 0.0
        if self.pad:
            width = height = max(size)
        if self.shortest_edge is None:
            across, down = self.width / width, self.height / height
            return Change(max(across, down) / min(across, down), 0.0, filled)
        scale = self.shortest_edge / min(width, height)
        kept = self.width * self.height / (width * height * scale**2)
        return Change(1.0, 1 - min(kept, 1.0), filled)

    def normalize(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The second stage: [height, width, 3] bytes to [3, height, width] float32: (x · factor − mean) / std."""
        channels = [table[pixels[..., channel]] for channel, table in enumerate(self._tables)]
        return np.stack(channels)

    @cached_property
    def _tables(self) -> NDArray[np.float32]:
        """[3, 256]: what each byte becomes; rounded where transformers rounds (float64 product, then float32)."""
        rescaled = (np.arange(256, dtype=np.float64) * self.rescale_factor).astype(np.float32)
        mean, std = (np.array(values, dtype=np.float32)[:, None] for values in (self.mean, self.std))
        return (rescaled - mean) / std


def _on_square(image: Image.Image, mean: Sequence[float]) -> Image.Image:
    """The picture in the middle of the smallest square of the mean's colour, bytes cut off as transformers cuts them.

    Raises:
        DataError: the square would be too large to be made.
    """
    side, (width, height) = max(image.size), image.size
    if width == height:
        return image
    check_size((side, side), "The picture, pasted on a square,")
    red, green, blue = (int(value * 255) for value in mean)
    square = Image.new("RGB", (side, side), (red, green, blue))
    square.paste(image, ((side - width) // 2, (side - height) // 2))
    return square


def _geometry(config: Mapping[str, Any], usually: bool) -> tuple[int, int, int | None]:
    """(height, width, shortest edge) from size and crop_size, in today's form or an older one of plain numbers; `usually`: whether
    pictures are cropped where do_center_crop isn't there."""
    crops = config.get("do_center_crop", usually)
    size: Any = config["size"]
    crop: Any = config["crop_size"] if crops else None
    size = {"shortest_edge": size} if isinstance(size, int) else size
    crop = {"height": crop, "width": crop} if isinstance(crop, int) else crop
    sides = {name for name, value in size.items() if value is not None}
    if sides == {"height", "width"}:
        target = (_positive(size["height"]), _positive(size["width"]))
        if crops and (crop["height"], crop["width"]) != target:
            raise ValueError(f"do_center_crop after a resize to {target[0]} × {target[1]} isn't supported")
        return *target, None
    if sides == {"shortest_edge"} and crops:
        edge, height, width = _positive(size["shortest_edge"]), _positive(crop["height"]), _positive(crop["width"])
        if max(height, width) > edge:
            raise ValueError(f"crop_size {height} × {width} exceeds the shortest edge {edge}")
        return height, width, edge
    raise ValueError(f"size of {' and '.join(sorted(sides))} with do_center_crop = {crops} isn't supported")


def _positive(value: Any) -> int:
    if not isinstance(value, int) or not 0 < value <= 4096:
        raise ValueError(f"a side is {value!r}, not 1 to 4096 pixels")
    return value


def _three(values: float | Sequence[float], *, divides: bool = False) -> tuple[float, float, float]:
    red, green, blue = map(_finite, [values] * 3 if isinstance(values, int | float) else values)
    if divides and 0 in (red, green, blue):
        raise ValueError("a deviation is zero")
    return red, green, blue


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{value!r} isn't a finite number")
    return number
