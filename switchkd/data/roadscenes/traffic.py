"""What moves and what tells it how: vehicles from behind, pedestrians, the traffic light, the speed-limit sign."""

from __future__ import annotations

from random import Random

from .canvas import Canvas, Color
from .scene import LANES, Pedestrian, Scene, Vehicle

PAINT: dict[str, Color] = {
    "red": (214, 24, 28),
    "green": (24, 172, 58),
    "blue": (28, 72, 226),
    "yellow": (250, 208, 16),
    "white": (246, 246, 246),
    "black": (22, 22, 26),
}
_TIRE: Color = (12, 12, 14)
_GLASS: Color = (112, 158, 188)
_CHROME: Color = (150, 152, 156)
_TAIL_LIGHT: Color = (255, 70, 50)
_SKIN: tuple[Color, ...] = ((236, 188, 150), (176, 120, 84), (110, 72, 50))
_CLOTHES: tuple[Color, ...] = ((150, 84, 160), (226, 120, 60), (90, 150, 150), (170, 130, 90))
_STEEL: Color = (96, 100, 106)

# Where a vehicle stands: middle of its wheels (x by column, y), size as a share of a 16-unit cell, depth.
_ROW_FEET = (((10.2, 24.0, 37.8), 31.4, 0.84, 0.36), ((8.0, 24.0, 40.0), 47.4, 1.0, 0.22))
_OWN_LANE_X = (6.5, 24.0, 41.5)  # by column, in the fourth row
_PAVEMENT_FEET = ((56.5, 47.0, 0.25), (57.5, 62.5, 0.1))  # x, y, depth by spot

_LAMPS: dict[str, Color] = {"red": (255, 40, 32), "yellow": (255, 200, 0), "green": (30, 240, 110)}
_LAMP_OFF: Color = (52, 52, 54)

# Which of the seven segments a digit shows; a font file would paint other pixels on other machines.
_SEGMENTS = {"0": "abcdef", "1": "bc", "2": "abged", "3": "abgcd", "5": "afgcd", "8": "abcdefg"}


def draw_vehicle(canvas: Canvas, vehicle: Vehicle, look: Random) -> None:
    """One vehicle, filling most of its cell."""
    feet, y, size, depth = _ROW_FEET[vehicle.row]
    x = feet[vehicle.column] + look.uniform(-0.5, 0.5)
    y += look.uniform(-0.4, 0.4)
    size *= look.uniform(0.95, 1.0)
    shade = look.uniform(0.93, 1.0)
    red, green, blue = PAINT[vehicle.color]
    paint = (int(red * shade), int(green * shade), int(blue * shade))
    _BODIES[vehicle.kind](_Stand(canvas, x, y, size, depth), paint)


class _Stand:
    """The canvas seen from where a thing stands: x from its middle, height above the ground, both in cell units."""

    def __init__(self, canvas: Canvas, x: float, y: float, size: float, depth: float) -> None:
        self._canvas, self._x, self._y, self._size, self._depth = canvas, x, y, size, depth

    def box(self, left: float, top: float, right: float, bottom: float, color: Color, glow: bool = False) -> None:
        x, y, size = self._x, self._y, self._size
        self._canvas.box(x + left * size, y - top * size, x + right * size, y - bottom * size, color, self._depth, glow)

    def oval(self, left: float, top: float, right: float, bottom: float, color: Color) -> None:
        x, y, size = self._x, self._y, self._size
        self._canvas.oval(x + left * size, y - top * size, x + right * size, y - bottom * size, color, self._depth)

    def both(self, inner: float, top: float, outer: float, bottom: float, color: Color, glow: bool = False) -> None:
        """The same box on the left and on the right."""
        self.box(-outer, top, -inner, bottom, color, glow)
        self.box(inner, top, outer, bottom, color, glow)

    def trapezoid(self, top_half: float, top: float, bottom_half: float, bottom: float, color: Color) -> None:
        x, y, size = self._x, self._y, self._size
        high, low = y - top * size, y - bottom * size
        points = [
            (x - top_half * size, high),
            (x + top_half * size, high),
            (x + bottom_half * size, low),
            (x - bottom_half * size, low),
        ]
        self._canvas.shape(points, color, self._depth)


def _car(stand: _Stand, paint: Color) -> None:
    stand.both(3.6, 3, 6.4, 0, _TIRE)
    stand.trapezoid(4.2, 12, 6.0, 7, paint)
    stand.trapezoid(3.3, 11, 4.6, 7.6, _GLASS)
    stand.box(-7, 7.6, 7, 2, paint)
    stand.both(5, 6.4, 7, 4.6, _TAIL_LIGHT, glow=True)
    stand.box(-1.7, 4.4, 1.7, 3, _CHROME)


def _truck(stand: _Stand, paint: Color) -> None:
    stand.box(-6.6, 3, 6.6, 1.4, _STEEL)
    stand.both(3, 3, 6.4, 0, _TIRE)
    stand.box(-7.2, 15.4, 7.2, 3, _CHROME)
    stand.box(-6.6, 14.8, -0.4, 3.6, paint)
    stand.box(0.4, 14.8, 6.6, 3.6, paint)
    stand.both(1, 11, 1.6, 6, _CHROME)
    stand.both(5.2, 2.8, 6.8, 1.6, _TAIL_LIGHT, glow=True)


def _bus(stand: _Stand, paint: Color) -> None:
    stand.both(4, 2.4, 6.6, 0, _TIRE)
    stand.oval(-6.8, 15.6, 6.8, 12, paint)
    stand.box(-6.8, 14, 6.8, 1.4, paint)
    stand.box(-5.8, 12.8, 5.8, 8, _GLASS)
    stand.both(5, 4.6, 6.8, 2.8, _TAIL_LIGHT, glow=True)
    stand.box(-3.4, 5.4, 3.4, 4.8, _TIRE)
    stand.box(-3.4, 3.8, 3.4, 3.2, _TIRE)


def _motorbike(stand: _Stand, paint: Color) -> None:
    stand.box(-1.2, 5, 1.2, 0, _TIRE)
    stand.box(-5.2, 8.4, 5.2, 7.4, _STEEL)
    stand.both(4.2, 9.8, 5.6, 8.2, _STEEL)
    stand.trapezoid(3, 6.4, 2.2, 2.6, paint)
    stand.trapezoid(4.2, 11.2, 2.8, 5.4, paint)
    stand.oval(-2.4, 15.4, 2.4, 10.6, paint)
    stand.box(-1.2, 4.6, 1.2, 3.4, _TAIL_LIGHT, glow=True)


_BODIES = {"car": _car, "truck": _truck, "bus": _bus, "motorbike": _motorbike}


def own_lane_x(scene: Scene) -> float:
    """Where the own lane's middle is in the fourth row, in units."""
    return _OWN_LANE_X[LANES.index(scene.lane)]


def draw_pedestrian(canvas: Canvas, scene: Scene, pedestrian: Pedestrian, look: Random) -> None:
    """One person on foot."""
    if pedestrian.ground == "crossing":
        x, y, depth = [x for x in _OWN_LANE_X if x != own_lane_x(scene)][pedestrian.spot], 61.0, 0.1
        x += look.uniform(-2, 2)
    else:
        x, y, depth = _PAVEMENT_FEET[pedestrian.spot]
        x += look.uniform(-1, 1)
    stand = _Stand(canvas, x, y, look.uniform(0.94, 1.0), depth)
    clothes = look.choice(_CLOTHES)
    stand.both(0.3, 5, 2, 0, (44, 46, 66))
    stand.box(-2.6, 10, 2.6, 4.6, clothes)
    stand.both(2.6, 9.6, 3.6, 5.4, clothes)
    stand.oval(-1.9, 14, 1.9, 10, look.choice(_SKIN))


def draw_traffic_light(canvas: Canvas, light: str) -> None:
    """Three lamps on an arm over the right lane, one of them lit."""
    canvas.box(40, 1, 64, 2, _STEEL, 0.3)
    canvas.box(35.5, 0.5, 42.5, 15.5, (20, 20, 22), 0.3)
    for top, (name, color) in zip((1.2, 6, 10.8), _LAMPS.items(), strict=True):
        lit = name == light
        canvas.oval(37, top, 41, top + 4, color if lit else _LAMP_OFF, 0.3, glow=lit)


def draw_sign(canvas: Canvas, sign: str) -> None:
    """A round sign with a red rim and the number, on a pole beside the road; it throws back light at night."""
    x, y, radius = 55.5, 7.5, 7.5
    canvas.box(x - 0.5, y, x + 0.5, 33, _STEEL, 0.3)
    canvas.oval(x - radius, y - radius, x + radius, y + radius, (214, 20, 24), 0.3, glow=True)
    inner = radius - 1.2
    canvas.oval(x - inner, y - inner, x + inner, y + inner, (250, 250, 250), 0.3, glow=True)
    widths = [1 if digit == "1" else 4 for digit in sign]
    height = 7 if len(sign) == 3 else 9
    left = x - (sum(widths) + len(sign) - 1) / 2  # a whole number, as the top is: strokes fill pixels at size 64
    for digit, width in zip(sign, widths, strict=True):
        _draw_digit(canvas, digit, left, y - height / 2, width, height)
        left += width + 1


def _draw_digit(canvas: Canvas, digit: str, left: float, top: float, width: float, height: float) -> None:
    right, bottom, middle = left + width, top + height, top + height / 2
    strokes = {
        "a": (left, top, right, top + 1),
        "b": (right - 1, top, right, middle),
        "c": (right - 1, middle, right, bottom),
        "d": (left, bottom - 1, right, bottom),
        "e": (left, middle, left + 1, bottom),
        "f": (left, top, left + 1, middle),
        "g": (left, middle - 0.5, right, middle + 0.5),
    }
    for segment in _SEGMENTS[digit]:
        canvas.box(*strokes[segment], (10, 10, 10), 0.3, glow=True)
