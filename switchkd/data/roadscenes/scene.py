"""What a road scene holds, and how one is drawn by lot.

The picture is a grid of four by four cells (16 pixels each at the default size, one patch of a small vision tower).
Three lanes fill the three left columns: the second row is the far row of places, the third the near row, the fourth
the pedestrian crossing with the own car's bonnet. The right column is the pavement; lights and signs stand in the sky.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from random import Random

WEATHERS = ("clear", "rainy", "foggy", "snowy")
TIMES = ("day", "night")
LANES = ("left", "middle", "right")
LIGHTS = ("none", "red", "yellow", "green")
SIGNS = ("none", "30", "50", "80", "100", "120")
KINDS = ("car", "truck", "bus", "motorbike")
COLORS = ("red", "green", "blue", "yellow", "white", "black")
ROWS = ("far", "near")
PLACES = tuple(f"{row} {lane}" for row in ROWS for lane in LANES)
GROUNDS = ("crossing", "pavement")
SPLITS = ("train", "val", "test", "text")

MAX_VEHICLES = 4
MAX_PEDESTRIANS = 2

# The lots below only have to supply every answer often enough: the balance itself is kept by `questions.Examiner`.
_VEHICLE_COUNT_WEIGHTS = (1, 2, 3, 4)  # of 1, 2, 3, 4 vehicles
_SAME_KIND = 0.45  # how often the next vehicle is of the kind of an earlier one: "3" must be a usual count
_CLEAR_WAY = 0.5  # how often crossing and own lane are kept free: "may i go ?" must often be "yes"


@dataclass(frozen=True)
class Vehicle:
    """One vehicle, seen from behind."""

    kind: str  # one of KINDS
    color: str  # one of COLORS
    place: str  # one of PLACES; a place holds one vehicle at most

    @property
    def row(self) -> int:
        """0 far, 1 near."""
        return PLACES.index(self.place) // len(LANES)

    @property
    def column(self) -> int:
        """0 left, 1 middle, 2 right."""
        return PLACES.index(self.place) % len(LANES)


@dataclass(frozen=True)
class Pedestrian:
    """One person on foot."""

    ground: str  # one of GROUNDS
    spot: int  # 0 or 1: on the crossing the first or second lane that isn't the own one, on the pavement far or near


@dataclass(frozen=True)
class Scene:
    """All that a picture shows. Two scenes with the same `content` say the same, however they are painted."""

    weather: str  # one of WEATHERS
    time: str  # one of TIMES
    lane: str  # one of LANES: the own car's
    light: str  # one of LIGHTS
    sign: str  # one of SIGNS: the speed limit in km/h
    vehicles: tuple[Vehicle, ...]  # 1 to MAX_VEHICLES, in the order of PLACES
    pedestrians: tuple[Pedestrian, ...]  # 0 to MAX_PEDESTRIANS, crossing first
    look: int  # seed of what has no meaning: small shifts, clouds, houses, clothes

    @cached_property
    def content(self) -> str:
        """A digest of everything but `look`: 16 hexadecimal digits, the same on every machine."""
        facts = [self.weather, self.time, self.lane, self.light, self.sign]
        facts += [f"{vehicle.kind} {vehicle.color} {vehicle.place}" for vehicle in self.vehicles]
        facts += [f"{pedestrian.ground} {pedestrian.spot}" for pedestrian in self.pedestrians]
        return hashlib.blake2b("/".join(facts).encode(), digest_size=8).hexdigest()

    @property
    def split(self) -> str:
        """The one split (of SPLITS) that may hold this content, so that splits are disjoint whatever their sizes."""
        return SPLITS[int(self.content, 16) % len(SPLITS)]

    def count(self, kind: str) -> int:
        """How many vehicles of a kind, or how many pedestrians for `kind="pedestrian"`."""
        if kind == "pedestrian":
            return len(self.pedestrians)
        return sum(vehicle.kind == kind for vehicle in self.vehicles)

    def on(self, ground: str) -> int:
        """How many pedestrians are on the crossing or on the pavement."""
        return sum(pedestrian.ground == ground for pedestrian in self.pedestrians)

    def at(self, place: str) -> Vehicle | None:
        """The vehicle at one of PLACES."""
        return next((vehicle for vehicle in self.vehicles if vehicle.place == place), None)

    def may_go(self) -> bool:
        """The rule of "may i go ?": the light is green or there is none, nobody is on the crossing, and the near place
        of the own lane is empty."""
        return self.light in ("none", "green") and self.on("crossing") == 0 and self.at(f"near {self.lane}") is None


def sample_scene(rng: Random) -> Scene:
    """Draws one scene by lot; `rng` alone decides."""
    lane = rng.choice(LANES)
    clear_way = rng.random() < _CLEAR_WAY
    return Scene(
        weather=rng.choice(WEATHERS),
        time=rng.choice(TIMES),
        lane=lane,
        light=rng.choice(LIGHTS),
        sign=rng.choice(SIGNS),
        vehicles=_sample_vehicles(rng, [place for place in PLACES if not (clear_way and place == f"near {lane}")]),
        pedestrians=_sample_pedestrians(rng, ("pavement",) if clear_way else GROUNDS),
        look=rng.getrandbits(32),
    )


def scenes(split: str, seed: int, count: int) -> Iterator[Scene]:
    """The first `count` scenes of a split: all different in content, none of them in another split, and the first ones
    the same for any `count`."""
    rng = Random(f"roadscenes/{split}/{seed}")
    seen: set[str] = set()
    while len(seen) < count:
        scene = sample_scene(rng)
        if scene.split == split and scene.content not in seen:
            seen.add(scene.content)
            yield scene


def _sample_vehicles(rng: Random, free: list[str]) -> tuple[Vehicle, ...]:
    number = rng.choices(range(1, MAX_VEHICLES + 1), _VEHICLE_COUNT_WEIGHTS)[0]
    kinds: list[str] = []
    for _ in range(number):
        kinds.append(rng.choice(kinds) if kinds and rng.random() < _SAME_KIND else rng.choice(KINDS))
    places = rng.sample(free, number)
    vehicles = [Vehicle(kind, rng.choice(COLORS), place) for kind, place in zip(kinds, places, strict=True)]
    return tuple(sorted(vehicles, key=lambda vehicle: PLACES.index(vehicle.place)))


def _sample_pedestrians(rng: Random, grounds: tuple[str, ...]) -> tuple[Pedestrian, ...]:
    free = [Pedestrian(ground, spot) for ground in grounds for spot in (0, 1)]
    chosen = rng.sample(free, rng.randint(0, MAX_PEDESTRIANS))
    return tuple(sorted(chosen, key=lambda pedestrian: (pedestrian.ground, pedestrian.spot)))
