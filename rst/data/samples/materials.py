"""What the procedural sets are painted with: grounds of several materials, and objects made of the same ones.

A material is a pattern of two colours. The colours of an image are few, and ground, clutter and objects share them: the
mean colour of an object does not tell it from what is around it. Its outline does: the pattern breaks off there, and a
narrow rim is a little lighter or darker.

    H, W  height and width of an image, pixels    h, w  of the part of it that an object fills
"""

from typing import NamedTuple

import numpy as np
from PIL import Image

PATTERNS = ("plain", "stripes", "waves", "checks", "dots", "blotches")
PALETTE = 3  # colours of an image
PERIOD = (5.0, 16.0)  # pixels after which a pattern repeats
GRAIN = ((64, 30.0), (16, 14.0), (4, 8.0))  # noise of three coarsenesses: cell in pixels, standard deviation
SAME_AS_GROUND, SAME_AS_NEIGHBOUR = 0.15, 0.3  # share of the objects that have the material of either
MUTED = 0.5  # contrast of the materials of the ground over that of the others
RIM = (20.0, 60.0)  # how much lighter or darker the outermost pixel is
SHADE = 22.0  # the side of an object towards the light is so much lighter, the other so much darker


class Material(NamedTuple):
    """A pattern; two objects of one material differ in its place and angle alone."""

    pattern: str
    colours: np.ndarray  # (2, 3)
    period: float  # pixels


class Painter:
    """Paints one image: first its ground, then objects from back to front.

    Args:
        random: of everything random.
        height, width: of the image, pixels.
        palette: (PALETTE, 3) the colours; by default they are random.

    Attributes: pixels, (H, W, 3) float64, what is painted so far.
    """

    def __init__(self, random: np.random.Generator, height: int, width: int, palette: np.ndarray | None = None):
        self.random, self.height, self.width = random, height, width
        self.palette = random.uniform(40, 215, (PALETTE, 3)) if palette is None else palette
        self.light = _direction(random)
        self.grain = _grain(random, height, width)
        self.ground = [self.new_material(MUTED) for _ in range(int(random.integers(1, 4)))]
        self.latest = self.ground[0]
        self.pixels = self._paint_ground()

    def new_material(self, contrast: float = 1.0) -> Material:
        """A material in two colours of the image, each a little off; they are pulled together for less contrast."""
        pattern = PATTERNS[self.random.integers(len(PATTERNS))]
        pair = self.palette[self.random.choice(PALETTE, 2, replace=False)]
        colours = pair + self.random.normal(0.0, 10.0, (2, 3))
        middle = colours.mean(0)
        return Material(pattern, middle + contrast * (colours - middle), self.random.uniform(*PERIOD))

    def next_material(self) -> Material:
        """That of the ground, that of the object before, or a new one."""
        chance = self.random.uniform()
        if chance < SAME_AS_GROUND:
            self.latest = self.ground[self.random.integers(len(self.ground))]
        elif chance >= SAME_AS_GROUND + SAME_AS_NEIGHBOUR:
            self.latest = self.new_material()
        return self.latest

    def paint(self, mask: np.ndarray, material: Material) -> None:
        """Fill a mask (H, W) bool, not empty, with a material, shaded, and with a rim."""
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        part = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        inside = mask[part]
        height, width = inside.shape
        fill = self._fill(material, height, width)
        y, x = (np.linspace(-1.0, 1.0, length) for length in (height, width))
        fill += SHADE * (self.light[0] * y[:, None] + self.light[1] * x)[..., None]
        padded = np.pad(inside, 1)
        core = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
        rim = self.random.uniform(*RIM) * self.random.choice([-1.0, 1.0])
        fill += rim * (inside & ~core)[..., None]
        fill += self.grain[::-1, ::-1][part][..., None]
        self.pixels[part][inside] = fill[inside]

    def finished(self) -> np.ndarray:
        """(H, W, 3) uint8: the image, with the noise of a camera."""
        return (self.pixels + self.random.normal(0.0, 5.0, self.pixels.shape)).round().clip(0, 255).astype(np.uint8)

    def _paint_ground(self) -> np.ndarray:
        """Regions of materials: each pixel has that of the nearest of a few points."""
        height, width = self.height, self.width
        seeds = self.random.uniform([0.0, 0.0], [height, width], (len(self.ground), 2))
        y, x = np.ogrid[:height, :width]
        nearest = np.argmin([(y - top) ** 2 + (x - left) ** 2 for top, left in seeds], axis=0)
        fills = np.stack([self._fill(material, height, width) for material in self.ground])
        return np.take_along_axis(fills, nearest[None, ..., None], 0)[0] + self.grain[..., None]

    def _fill(self, material: Material, height: int, width: int) -> np.ndarray:
        """(h, w, 3) float64: a material, at a random place and angle."""
        amount = _pattern(self.random, material, height, width)[..., None]
        return material.colours[0] * (1.0 - amount) + material.colours[1] * amount


def _pattern(random: np.random.Generator, material: Material, height: int, width: int) -> np.ndarray:
    """(h, w) float64 in [0, 1]: how much of the second colour there is."""
    along, across = _direction(random)
    shift = random.uniform(0.0, material.period, 2)
    y, x = np.ogrid[:height, :width]
    u = (along * x + across * y + shift[0]) % material.period / material.period
    v = (along * y - across * x + shift[1]) % material.period / material.period
    if material.pattern == "plain":
        return np.full((height, width), 0.25)
    if material.pattern == "stripes":
        return (u < 0.5).astype(np.float64)
    if material.pattern == "waves":
        return np.abs(2.0 * u - 1.0)
    if material.pattern == "checks":
        return ((u < 0.5) ^ (v < 0.5)).astype(np.float64)
    if material.pattern == "dots":
        return ((u - 0.5) ** 2 + (v - 0.5) ** 2 < 0.1).astype(np.float64)
    cell = material.period / 2
    coarse = random.normal(0.4, 0.5, (int(height / cell) + 2, int(width / cell) + 2))
    return _enlarged(coarse, height, width).clip(0.0, 1.0)


def _grain(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    """(H, W) float64: noise that is added to every colour."""
    return sum(
        (_enlarged(random.normal(0.0, s, (height // cell + 2, width // cell + 2)), height, width) for cell, s in GRAIN),
        np.zeros((height, width)),
    )


def _enlarged(coarse: np.ndarray, height: int, width: int) -> np.ndarray:
    image = Image.fromarray(coarse.astype(np.float32))
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR), np.float64)


def _direction(random: np.random.Generator) -> tuple[float, float]:
    angle = random.uniform(0.0, 2 * np.pi)
    return float(np.cos(angle)), float(np.sin(angle))
