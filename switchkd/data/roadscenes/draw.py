"""Paints a scene at any size: sky, houses, road, everything on it, and what falls from the sky."""

from __future__ import annotations

from random import Random

from PIL import Image

from .canvas import UNITS, Canvas, Color
from .scene import Scene
from .traffic import draw_pedestrian, draw_sign, draw_traffic_light, draw_vehicle, own_lane_x

_HORIZON = 16.0
_SKY: dict[str, tuple[Color, Color]] = {  # top and horizon; the night darkens them further
    "clear": ((40, 120, 235), (170, 212, 250)),
    "rainy": ((88, 94, 106), (132, 138, 148)),
    "foggy": ((186, 190, 194), (200, 203, 206)),
    "snowy": ((142, 158, 188), (196, 206, 224)),
}
_NIGHT_SKY = 0.28
_GROUND: dict[str, Color] = {
    "clear": (88, 142, 60),
    "rainy": (62, 96, 54),
    "foggy": (96, 124, 84),
    "snowy": (236, 240, 246),
}
_ROAD: dict[str, Color] = {
    "clear": (104, 104, 108),
    "rainy": (74, 78, 88),
    "foggy": (108, 110, 112),
    "snowy": (158, 162, 170),
}
_PAVEMENT: dict[str, Color] = {
    "clear": (176, 168, 156),
    "rainy": (128, 124, 122),
    "foggy": (168, 164, 158),
    "snowy": (214, 218, 226),
}
_MARKING: Color = (238, 238, 232)
_HOUSES: tuple[Color, ...] = ((150, 96, 78), (176, 150, 116), (120, 124, 136), (158, 132, 126))
_TREE: Color = (44, 92, 44)
_ROAD_MIDDLE = 24.0


def draw(scene: Scene, size: int = UNITS) -> Image.Image:
    """The picture of a scene: RGB, `size` by `size` pixels (48 or more for legible signs). The same scene and size give
    the same pixels."""
    look = Random(scene.look)
    canvas = Canvas(scene, size)
    _sky(canvas, scene, look)
    _skyline(canvas, scene, look)
    _road(canvas, scene)
    for vehicle in scene.vehicles:
        draw_vehicle(canvas, vehicle, look)
    for pedestrian in scene.pedestrians:
        draw_pedestrian(canvas, scene, pedestrian, look)
    _bonnet(canvas, scene)
    _falling(canvas, scene, look)
    if scene.light != "none":  # light and sign after what falls, which would blot out strokes one pixel wide
        draw_traffic_light(canvas, scene.light)
    if scene.sign != "none":
        draw_sign(canvas, scene.sign)
    return canvas.picture()


def _mix(one: Color, other: Color, share: float) -> Color:
    red, green, blue = (int(a + (b - a) * share) for a, b in zip(one, other, strict=True))
    return red, green, blue


def _sky(canvas: Canvas, scene: Scene, look: Random) -> None:
    top, low = _SKY[scene.weather]
    if scene.time == "night":
        top, low = _mix((0, 0, 0), top, _NIGHT_SKY), _mix((0, 0, 0), low, _NIGHT_SKY)
    for band in range(16):
        canvas.box(0, band, UNITS, band + 1, _mix(top, low, band / 15), 0.9, glow=True)
    if scene.weather == "clear":
        x = look.uniform(6, 26)
        if scene.time == "day":
            canvas.oval(x - 3, 2, x + 3, 8, (255, 236, 130), 0, glow=True)
        else:
            for _ in range(14):
                star_x, star_y = look.uniform(0, UNITS), look.uniform(0, 11)
                canvas.box(star_x, star_y, star_x + 0.5, star_y + 0.5, (240, 240, 220), 0, glow=True)
            canvas.oval(x - 2.5, 2, x + 2.5, 7, (238, 236, 214), 0, glow=True)
            canvas.oval(x - 1, 1.5, x + 3, 5.8, top, 0, glow=True)
    elif scene.weather == "rainy":
        for _ in range(5):
            x, y = look.uniform(-6, UNITS - 10), look.uniform(-2, 5)
            canvas.oval(x, y, x + look.uniform(14, 24), y + 5, (70, 74, 84), 0.4)


def _skyline(canvas: Canvas, scene: Scene, look: Random) -> None:
    """Houses and trees along the horizon, and the ground from there on."""
    canvas.box(0, _HORIZON - 1, UNITS, UNITS, _GROUND[scene.weather], 0.45)
    night = scene.time == "night"
    for left in (0.0, 6.0, 44.0, 50.0, 57.0):
        x, height = left + look.uniform(-1, 1), look.uniform(3, 7)
        if look.random() < 0.4:
            canvas.oval(x, _HORIZON - height, x + 5, _HORIZON + 1, _TREE, 0.7)
            continue
        canvas.box(x, _HORIZON - height, x + 6.5, _HORIZON + 1, look.choice(_HOUSES), 0.7)
        for window in (1.0, 3.8):
            lit = night and look.random() < 0.7
            color = (250, 214, 120) if lit else (70, 80, 96)
            canvas.box(x + window, _HORIZON - height + 1, x + window + 1.4, _HORIZON - height + 2.4, color, 0.7, lit)


def _lane_width(y: float) -> float:
    """Units at height y: lanes narrow towards the horizon just enough to look right while they keep to their cells."""
    return 16.5 + 0.19 * (y - 47)


def _beside(y: float, lanes: float) -> tuple[float, float]:
    """The point of the road at height y, `lanes` lane widths to the right of its middle."""
    return _ROAD_MIDDLE + lanes * _lane_width(y), y


def _stripe(canvas: Canvas, lanes: float, width: float, top: float, bottom: float, color: Color, depth: float) -> None:
    """A piece of a line along the road; `lanes` and `width` in lane widths."""
    right = lanes + width
    points = [_beside(top, lanes), _beside(top, right), _beside(bottom, right), _beside(bottom, lanes)]
    canvas.shape(points, color, depth)


def _road(canvas: Canvas, scene: Scene) -> None:
    _stripe(canvas, 1.5, 2, _HORIZON, UNITS, _PAVEMENT[scene.weather], 0.3)
    for top in range(int(_HORIZON), UNITS, 4):
        _stripe(canvas, -1.5, 3, top, top + 4, _ROAD[scene.weather], 0.6 - top / 100)
    for lanes, width in ((-1.47, 0.07), (1.4, 0.07)):
        _stripe(canvas, lanes, width, _HORIZON, 49, _MARKING, 0.3)
    for lanes in (-0.53, 0.47):
        for top, bottom in ((17, 20), (23, 27), (31, 36), (41, 47)):
            _stripe(canvas, lanes, 0.06, top, bottom, _MARKING, 0.3)
    for bar in range(9):
        _stripe(canvas, -1.45 + bar / 3, 0.18, 51, 59, _MARKING, 0.1)


def _bonnet(canvas: Canvas, scene: Scene) -> None:
    """The front of the own car, in its lane."""
    x = own_lane_x(scene)
    canvas.shape([(x - 6, 58), (x + 6, 58), (x + 8.5, 64), (x - 8.5, 64)], (24, 84, 92), 0)
    canvas.shape([(x - 5, 59), (x + 5, 59), (x + 5.6, 60.6), (x - 5.6, 60.6)], (96, 170, 176), 0)


def _falling(canvas: Canvas, scene: Scene, look: Random) -> None:
    """Rain or snow before the road and all on it, thin enough to leave the colours readable."""
    if scene.weather == "rainy":
        for _ in range(36):
            x, y = look.uniform(0, UNITS + 4), look.uniform(-3, UNITS)
            canvas.line(x, y, x - 1.2, y + look.uniform(2.5, 5), 0.35, (190, 204, 226), 0)
    elif scene.weather == "snowy":
        for _ in range(40):
            x, y, width = look.uniform(0, UNITS), look.uniform(0, UNITS), look.uniform(0.7, 1.3)
            canvas.oval(x, y, x + width, y + width, (255, 255, 255), 0, glow=True)
