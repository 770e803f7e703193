"""A Pillow canvas in units: 64 by 64 of them, whatever the picture's size, under the light and the air of a scene."""

from __future__ import annotations

from PIL import Image, ImageDraw

from .scene import Scene

Color = tuple[int, int, int]

UNITS = 64  # a side of the picture; a cell of the grid of places is 16 units
_SMOOTH_BELOW = 192  # pixels: smaller pictures are painted twice as large and averaged, so that edges are soft
_NIGHT = (0.6, 0.6, 0.7)  # what the night leaves of red, green and blue
_FOG = {"day": (196, 199, 202), "night": (78, 82, 90)}


class Canvas:
    """Shapes in units (x to the right, y down); `depth` 0 is here and 1 the horizon, and counts in fog."""

    def __init__(self, scene: Scene, size: int) -> None:
        self.size = size
        self.over = 2 if size < _SMOOTH_BELOW else 1
        side = size * self.over
        self.scale = side / UNITS
        self.image = Image.new("RGB", (side, side))
        self._pen = ImageDraw.Draw(self.image)
        self._night = scene.time == "night"
        self._fog = _FOG[scene.time] if scene.weather == "foggy" else None

    def picture(self) -> Image.Image:
        """The painted picture at its final size, RGB."""
        return self.image.reduce(self.over) if self.over > 1 else self.image

    def shade(self, color: Color, depth: float, glow: bool = False) -> Color:
        """A colour as it looks under this light and air; what glows isn't darkened by the night, and shines through fog
        twice as well."""
        red, green, blue = color
        if self._night and not glow:
            red, green, blue = int(red * _NIGHT[0]), int(green * _NIGHT[1]), int(blue * _NIGHT[2])
        if self._fog:
            veil = depth / 2 if glow else depth
            fog_red, fog_green, fog_blue = self._fog
            red = int(red + (fog_red - red) * veil)
            green = int(green + (fog_green - green) * veil)
            blue = int(blue + (fog_blue - blue) * veil)
        return red, green, blue

    def box(
        self, left: float, top: float, right: float, bottom: float, color: Color, depth: float, glow: bool = False
    ) -> None:
        """A filled rectangle; what is thinner than a pixel is still one pixel wide."""
        scale = self.scale
        x0, y0 = round(left * scale), round(top * scale)
        x1, y1 = max(x0, round(right * scale) - 1), max(y0, round(bottom * scale) - 1)
        self._pen.rectangle((x0, y0, x1, y1), self.shade(color, depth, glow))

    def oval(
        self, left: float, top: float, right: float, bottom: float, color: Color, depth: float, glow: bool = False
    ) -> None:
        """A filled ellipse in its bounding box."""
        scale = self.scale
        x0, y0 = round(left * scale), round(top * scale)
        x1, y1 = max(x0, round(right * scale) - 1), max(y0, round(bottom * scale) - 1)
        self._pen.ellipse((x0, y0, x1, y1), self.shade(color, depth, glow))

    def shape(self, points: list[tuple[float, float]], color: Color, depth: float) -> None:
        """A filled polygon."""
        scale = self.scale
        self._pen.polygon([(x * scale, y * scale) for x, y in points], self.shade(color, depth))

    def line(self, x0: float, y0: float, x1: float, y1: float, width: float, color: Color, depth: float) -> None:
        """A straight line."""
        scale = self.scale
        points = (x0 * scale, y0 * scale, x1 * scale, y1 * scale)
        self._pen.line(points, self.shade(color, depth), max(1, round(width * scale)))
