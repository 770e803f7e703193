"""The pictures and captions of the built-in task: complete, readable, the same every time."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from itertools import combinations
from random import Random
from typing import Any

import numpy as np
import pytest
from PIL import Image

from switchkd.data.roadscenes import Pedestrian, Scene, Vehicle, caption, corpus, draw, sample_scene, scenes
from switchkd.data.roadscenes.language import STYLES
from switchkd.data.roadscenes.scene import COLORS, KINDS, LANES, LIGHTS, PLACES, SIGNS, TIMES, WEATHERS

SKIES = [(weather, time) for weather in WEATHERS for time in TIMES]
PLAIN = Scene("clear", "day", "middle", "none", "none", (), (), look=7)


def pixels(scene: Scene, size: int = 64) -> np.ndarray:
    """[size, size, 3], 0 to 255."""
    return np.asarray(draw(scene, size), dtype=float)


def cell(scene: Scene, column: int, row: int, size: int = 64) -> np.ndarray:
    """One of the four by four cells of a picture."""
    side = size // 4
    return pixels(scene, size)[row * side : (row + 1) * side, column * side : (column + 1) * side]


def place_cell(scene: Scene, place: str) -> np.ndarray:
    return cell(scene, PLACES.index(place) % 3, 1 + PLACES.index(place) // 3)


def test_scenes_hold_what_they_may() -> None:
    for scene in scenes("train", 0, 2000):
        assert scene.weather in WEATHERS and scene.time in TIMES and scene.lane in LANES
        assert scene.light in LIGHTS and scene.sign in SIGNS
        places = [PLACES.index(vehicle.place) for vehicle in scene.vehicles]
        assert 1 <= len(places) <= 4 and places == sorted(set(places))
        assert all(vehicle.kind in KINDS and vehicle.color in COLORS for vehicle in scene.vehicles)
        assert len(scene.pedestrians) <= 2 and len(set(scene.pedestrians)) == len(scene.pedestrians)


def test_every_fact_is_met_and_none_too_rarely() -> None:
    some = list(scenes("train", 1, 3000))
    for name, values in {"weather": WEATHERS, "time": TIMES, "lane": LANES, "light": LIGHTS, "sign": SIGNS}.items():
        for value in values:
            share = sum(getattr(scene, name) == value for scene in some) / len(some)
            assert abs(share - 1 / len(values)) < 0.04
    for kind in KINDS:
        assert sum(scene.count(kind) == 3 for scene in some) / len(some) > 0.03
    assert 0.25 < sum(scene.may_go() for scene in some) / len(some) < 0.5


def test_content_leaves_out_the_look_alone() -> None:
    scene = sample_scene(Random(3))
    other: dict[str, Any] = {
        "weather": next(value for value in WEATHERS if value != scene.weather),
        "time": next(value for value in TIMES if value != scene.time),
        "lane": next(value for value in LANES if value != scene.lane),
        "light": next(value for value in LIGHTS if value != scene.light),
        "sign": next(value for value in SIGNS if value != scene.sign),
        "vehicles": (replace(scene.vehicles[0], color="red" if scene.vehicles[0].color != "red" else "blue"),),
        "pedestrians": (Pedestrian("crossing", 0), Pedestrian("crossing", 1)),
    }
    assert replace(scene, look=scene.look + 1).content == scene.content
    assert len({replace(scene, **{name: value}).content for name, value in other.items()} | {scene.content}) == 8


@pytest.mark.parametrize("size", [48, 64, 96, 100, 384])
def test_any_size_and_the_same_pixels_every_time(size: int) -> None:
    for scene in scenes("val", 5, 4):
        picture = draw(scene, size)
        assert picture.size == (size, size) and picture.mode == "RGB"
        assert picture.tobytes() == draw(scene, size).tobytes()


def test_sizes_show_the_same_scene() -> None:
    for scene in scenes("val", 6, 12):
        small = np.asarray(draw(scene, 384).resize((64, 64), Image.Resampling.BOX), dtype=float)
        assert np.abs(small - pixels(scene)).mean() < 10


def test_pixels_are_pinned() -> None:
    """A change of these pixels must raise `splits.GENERATION`. Only whole-number arithmetic of boxes is compared: the
    edges of ellipses and slanted lines may differ between Pillow versions."""
    scene = replace(PLAIN, sign="50", time="night")
    digits = np.asarray(draw(scene, 64).crop((51, 3, 60, 12)))
    assert hashlib.sha256(digits.tobytes()).hexdigest()[:16] == "aec10f6bf905f923"


@pytest.mark.parametrize(("weather", "time"), SKIES)
def test_sign_numbers_are_readable(weather: str, time: str) -> None:
    """Numbers differ by strong strokes on white, in any weather."""
    shown = {sign: cell(replace(PLAIN, weather=weather, time=time, sign=sign), 3, 0) for sign in SIGNS}
    for one, other in combinations(SIGNS, 2):
        assert (np.abs(shown[one] - shown[other]).mean(-1) > 100).sum() >= 6, (one, other)
    for sign in SIGNS[1:]:
        inside = shown[sign][4:11, 2:13].mean(-1)
        assert inside.max() - inside.min() > 140


@pytest.mark.parametrize(("weather", "time"), SKIES)
def test_colors_can_be_told_apart(weather: str, time: str) -> None:
    sky = replace(PLAIN, weather=weather, time=time)
    for kind in KINDS:
        for place in ("far right", "near middle"):
            means = {
                color: place_cell(replace(sky, vehicles=(Vehicle(kind, color, place),)), place).mean((0, 1))
                for color in COLORS
            }
            for one, other in combinations(COLORS, 2):
                assert np.linalg.norm(means[one] - means[other]) > 6, (kind, place, one, other)


@pytest.mark.parametrize(("weather", "time"), SKIES)
def test_everything_else_can_be_told_apart(weather: str, time: str) -> None:
    sky = replace(PLAIN, weather=weather, time=time)
    for place in PLACES:
        shown = [place_cell(sky, place)]
        shown += [place_cell(replace(sky, vehicles=(Vehicle(kind, "green", place),)), place) for kind in KINDS]
        assert all(np.abs(one - other).mean() > 4 for one, other in combinations(shown, 2))
    lights = [cell(replace(sky, light=light), 2, 0) for light in LIGHTS]
    assert all((np.abs(one - other).max(-1) > 100).sum() >= 8 for one, other in combinations(lights, 2))
    lanes = [pixels(replace(sky, lane=lane))[57:] for lane in LANES]
    assert all(np.abs(one - other).mean() > 4 for one, other in combinations(lanes, 2))
    people = [(), *((Pedestrian(ground, spot),) for ground in ("crossing", "pavement") for spot in (0, 1))]
    crowds = [pixels(replace(sky, pedestrians=some))[32:] for some in people]
    assert all((np.abs(one - other).max(-1) > 20).sum() >= 20 for one, other in combinations(crowds, 2))


def test_weathers_and_times_can_be_told_apart_by_the_sky() -> None:
    skies = [pixels(replace(PLAIN, weather=weather, time=time))[:16, :32].mean((0, 1)) for weather, time in SKIES]
    assert all(np.linalg.norm(one - other) > 10 for one, other in combinations(skies, 2))


def test_vehicles_fill_their_cell_and_little_else() -> None:
    """Aligned with patches of 16 pixels, so that one patch says what stands in a place."""
    for place in PLACES:
        for kind in KINDS:
            changed = (
                np.abs(pixels(replace(PLAIN, vehicles=(Vehicle(kind, "red", place),))) - pixels(PLAIN)).max(-1) > 8
            )
            column, row = PLACES.index(place) % 3, 1 + PLACES.index(place) // 3
            inside = changed[row * 16 : row * 16 + 16, column * 16 : column * 16 + 16].sum()
            assert inside > (50 if kind == "motorbike" else 100)
            assert inside / changed.sum() > 0.75, (place, kind)


def test_captions_mention_everything() -> None:
    rng = Random(0)
    for scene in scenes("train", 2, 500):
        said = caption(scene, rng)
        assert scene.weather in said.split() and scene.time in said.split()
        assert f"{scene.lane} lane ." in said
        assert re.search(r"no traffic light", said) if scene.light == "none" else f"{scene.light}" in said
        if scene.light != "none":
            assert f"a {scene.light} traffic light" in said or f"the traffic light is {scene.light} ." in said
        assert re.findall(r"\b\d+\b", said) == ([] if scene.sign == "none" else [scene.sign])
        for vehicle in scene.vehicles:
            name, place = f"a {vehicle.color} {vehicle.kind}", vehicle.place
            phrases = (f"{place} is {name} .", f"{name} is {place} .", f"{name} {place} .")
            assert sum(phrase in said for phrase in phrases) == 1
        assert len(re.findall(r"\b(?:far|near)\b", said)) == len(scene.vehicles)
        for ground in ("crossing", "pavement"):
            number = sum(pedestrian.ground == ground for pedestrian in scene.pedestrians)
            phrases = ("", f"one pedestrian on the {ground} .", f"two pedestrians on the {ground} .")
            assert phrases[number] in said and (ground in said) == (number > 0)
        assert ("no pedestrian" in said) == (not scene.pedestrians)


def test_corpus_has_few_words_and_covers_all_styles() -> None:
    lines = list(corpus(0, 600))
    words = {word for line in lines for word in line.split()}
    assert len(words) < 150
    assert all(re.fullmatch(r"[a-z]+|\d+|[.?]", word) for word in words)
    assert max(len(line.split()) for line in lines) < 80
    for style in STYLES:
        assert any(style.nobody in line for line in lines)
    more = {word for line in corpus(1, 1500) for word in line.split()}
    assert more <= words
    assert lines == list(corpus(0, 600))
