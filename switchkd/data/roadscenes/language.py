"""Scenes in words: dense captions of a small vocabulary, lower case, every word and mark set apart by spaces."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from .scene import GROUNDS, KINDS, Scene

DESCRIBE = ("describe the scene .", "what do you see ?", "what is on the road ?")
_NUMBERS = ("no", "one", "two")


@dataclass(frozen=True)
class Style:
    """One way to say the facts; a caption keeps to one style, so that the first words tell how the others go."""

    weather: str
    lane: str
    light: str
    no_light: str
    sign: str
    no_sign: str
    vehicle: str
    pedestrians: str
    nobody: str


STYLES = (
    Style(
        weather="it is a {weather} {time} .",
        lane="i am in the {lane} lane .",
        light="the traffic light is {light} .",
        no_light="there is no traffic light .",
        sign="the sign says {sign} .",
        no_sign="there is no sign .",
        vehicle="{place} is a {color} {kind} .",
        pedestrians="{number} {noun} on the {ground} .",
        nobody="there is no pedestrian .",
    ),
    Style(
        weather="the {time} is {weather} .",
        lane="my lane is the {lane} lane .",
        light="a {light} traffic light .",
        no_light="no traffic light .",
        sign="the speed limit is {sign} .",
        no_sign="no speed limit .",
        vehicle="a {color} {kind} is {place} .",
        pedestrians="{number} {noun} on the {ground} .",
        nobody="no pedestrian .",
    ),
    Style(
        weather="a {weather} {time} on the road .",
        lane="we drive in the {lane} lane .",
        light="we see a {light} traffic light .",
        no_light="we see no traffic light .",
        sign="we see a sign with {sign} .",
        no_sign="we see no sign .",
        vehicle="we see a {color} {kind} {place} .",
        pedestrians="we see {number} {noun} on the {ground} .",
        nobody="we see no pedestrian .",
    ),
)


def caption(scene: Scene, rng: Random) -> str:
    """Everything in the scene: weather, time, lane, light, sign, each vehicle with place, colour and kind (far left to
    near right), and the pedestrians."""
    style = rng.choice(STYLES)
    sentences = [
        style.weather.format(weather=scene.weather, time=scene.time),
        style.lane.format(lane=scene.lane),
        style.no_light if scene.light == "none" else style.light.format(light=scene.light),
        style.no_sign if scene.sign == "none" else style.sign.format(sign=scene.sign),
    ]
    for vehicle in scene.vehicles:
        sentences.append(style.vehicle.format(place=vehicle.place, color=vehicle.color, kind=vehicle.kind))
    for ground in GROUNDS:
        if number := scene.on(ground):
            noun = "pedestrian" if number == 1 else "pedestrians"
            sentences.append(style.pedestrians.format(number=_NUMBERS[number], noun=noun, ground=ground))
    if not scene.pedestrians:
        sentences.append(style.nobody)
    return " ".join(sentences)


def plural(kind: str) -> str:
    """ "buses" for "bus", "cars" for "car"."""
    return kind + ("es" if kind.endswith("s") else "s")


PLURALS = {kind: plural(kind) for kind in (*KINDS, "pedestrian")}
