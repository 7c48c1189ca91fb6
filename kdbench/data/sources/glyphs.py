"""Characters drawn from the fonts inside matplotlib, each as a picture and as the path of a pen.

47 classes as in EMNIST-balanced (Cohen et al., 2017), whose merging of cases (C and c are one class) fits here because
every glyph is scaled to the same box. A sample is a class, a face and a random affine map, shown in two modalities:

    raster    image (size, size, 1): white on black, antialiased
    outline   sequence (1, points, 3): x, y, pen-down along the font's own path, contour after contour

So the two are paired instance by instance, and what one cannot tell apart (O, 0, Q) is hard in the other too. The test
faces belong to font FAMILIES THAT TRAINING NEVER SEES: train has ten faces of DejaVu Sans, Mono and Serif, validation
two other DejaVu faces, test the nine faces of STIX and Computer Modern.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from kdbench.data.raw import RawData
from kdbench.types import KdbenchError

MODALITIES = ("raster", "outline")
CLASSES = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghnqrt"
FACES = {
    "train": (
        "DejaVuSans",
        "DejaVuSans-Bold",
        "DejaVuSans-BoldOblique",
        "DejaVuSansMono",
        "DejaVuSansMono-Bold",
        "DejaVuSansMono-Oblique",
        "DejaVuSansMono-BoldOblique",
        "DejaVuSerif",
        "DejaVuSerif-Italic",
        "DejaVuSerif-BoldItalic",
    ),
    "val": ("DejaVuSans-Oblique", "DejaVuSerif-Bold"),
    "test": (
        "STIXGeneral",
        "STIXGeneralBol",
        "STIXGeneralItalic",
        "STIXGeneralBolIta",
        "cmr10",
        "cmb10",
        "cmss10",
        "cmti10",
        "cmtt10",
    ),
}
BOX = 0.66
"""Longer side of an undistorted glyph, as a share of the image."""
MARGIN = 0.03
"""Border that even a distorted glyph keeps, as a share of the image."""
REACH = np.array([math.radians(30), 0.35, 0.3, 0.3, 0.12, 0.12])
"""Largest rotation, shear, log of the scale of x and of y, and shift in x and in y, at distortion 1."""


def build(
    *,
    size: int = 32,
    points: int = 64,
    classes: int = 47,
    train: int = 9400,
    val: int = 940,
    test: int = 1880,
    distortion: float = 1.0,
    contrast: float = 1.0,
    noise: float = 0.3,
    fine: bool = False,
    jitter: float = 0.02,
    random_start: bool = False,
    seed: int = 0,
    draw: int = 0,
    data_dir: Path | None = None,
) -> RawData:
    """Modalities `raster`, uint8 (N, size, size, 1), and `outline`, uint8 (N, 1, points, 3), of the same instances.

    In an outline x runs to the right and y down, 0 and 255 being the edges of the image; the third channel is 255, and
    0 at the first point of each contour. Points are spread evenly by arc length over the undistorted path.

    classes: the first so many of CLASSES, so 10 are the digits and 36 add the capitals.
    train, val, test: number of samples; classes are balanced within each.
    distortion: scales the random map. At 1: rotation up to 30 degrees, each axis scaled by 0.74 to 1.35, sheared by up
    to 0.35, shifted by up to 0.12 of the image. A glyph is always kept whole inside the image.
    contrast: distance of ink from paper as a share of the range, both about the middle grey.
    noise, jitter: sd of the Gaussian noise on pixels and on x and y, as a share of half the range (127.5 grey levels,
    half the image).
    fine: take from the noise its mean over blocks of 2x2 pixels, and scale it back to its sd. Seen at half the size the
    picture is then clean; at full size pixels are mostly noise, which is what defeats a nearest neighbour.

    draw: another number gives other training and validation samples, and the same test set.
    random_start: let an outline begin at any of its points in place of where its font begins it, which is a habit of
    the designer. What has learnt that habit fails on fonts of another family.

    A sample depends on the arguments and its own index only: more samples do not change the first ones.
    Raises KdbenchError for arguments out of range.
    """
    counts = {"train": train, "val": val, "test": test}
    at_least_0 = {"distortion": distortion, "contrast": contrast, "noise": noise, "jitter": jitter, "seed": seed}
    at_least_0["draw"] = draw
    _check(size, points, classes, counts, at_least_0)
    if fine and size % 2:
        raise KdbenchError(f"glyphs: fine noise needs an even size, not {size}")
    raw = RawData(
        modalities={"raster": {}, "outline": {}},
        kinds={"raster": "image", "outline": "sequence"},
        labels={},
        class_names=list(CLASSES[:classes]),
        notes=["rendered characters; test fonts (STIX, Computer Modern) are of families never seen in training"],
    )
    pen = Pen(size)
    for number, (split, count) in enumerate(counts.items()):
        # A generator takes [a, b, c] for [a, b, c, 0]. The fourth number sets a permutation apart from a sample.
        drawn = [draw] if draw and split != "test" else []
        glyphs = [[Glyph(face, character, points) for character in CLASSES[:classes]] for face in FACES[split]]
        raster = raw.modalities["raster"][split] = np.empty((count, size, size, 1), np.uint8)
        outline = raw.modalities["outline"][split] = np.empty((count, 1, points, 3), np.uint8)
        labels = raw.labels[split] = np.empty(count, np.int64)
        faces = []
        for i in range(count):
            if i % classes == 0:
                # Every run of `classes` samples holds each class once.
                labels_of_run = np.random.default_rng([seed, number, i // classes, 1, *drawn]).permutation(classes)
            rng = np.random.default_rng([seed, number, i, 0, *drawn])
            labels[i] = labels_of_run[i % classes]
            face = rng.integers(len(glyphs))
            faces.append(FACES[split][face])
            glyph = glyphs[face][labels[i]]
            matrix, shift = place(glyph.corners, rng, distortion)

            xy = 255 * (glyph.outline @ matrix.T + shift) + 127.5 * jitter * rng.standard_normal((points, 2))
            outline[i, 0, :, :2] = np.rint(xy).clip(0, 255)
            outline[i, 0, :, 2] = glyph.pen_down
            ink = 127.5 + contrast * (pen.draw(glyph, matrix, shift) - 127.5)
            grain = rng.standard_normal((size, size), np.float32)
            raster[i, :, :, 0] = np.rint(ink + 127.5 * noise * (_fine(grain) if fine else grain)).clip(0, 255)
            if random_start:
                outline[i, 0] = np.roll(outline[i, 0], rng.integers(points), axis=0)
        if split == "test":
            raw.groups = "faces", faces
    return raw


def _fine(grain: np.ndarray) -> np.ndarray:
    """White noise (S, S) of unit variance without its means over 2x2 blocks, again of unit variance."""
    blocks = grain.reshape(len(grain) // 2, 2, len(grain) // 2, 2)
    return ((blocks - blocks.mean(axis=(1, 3), keepdims=True)) * math.sqrt(4 / 3)).reshape(grain.shape)


def place(corners: np.ndarray, rng: np.random.Generator, distortion: float) -> tuple[np.ndarray, np.ndarray]:
    """A random affine map, matrix (2, 2) and shift (2,), from a glyph's box into the image [0, 1] x [0, 1], y down.

    corners (K, 2): points that must stay inside, those of the glyph's path.
    """
    angle, shear, stretch_x, stretch_y, *wish = distortion * rng.uniform(-1, 1, 6) * REACH
    cos, sin = math.cos(angle), math.sin(angle)
    rotate, slant = np.array([[cos, -sin], [sin, cos]]), np.array([[1, shear], [0, 1]])
    matrix = BOX * rotate @ slant * [math.exp(stretch_x), -math.exp(stretch_y)]

    moved = corners @ matrix.T
    low, high = moved.min(axis=0), moved.max(axis=0)
    shrink = min(1, (1 - 2 * MARGIN) / (high - low).max())
    shift = np.clip(np.add(0.5, wish), MARGIN - shrink * low, 1 - MARGIN - shrink * high)
    return shrink * matrix, shift


class Glyph:
    """One character of one face: its path centred on 0 with the longer side 1, y up, and points along that path."""

    def __init__(self, face: str, character: str, points: int) -> None:
        import matplotlib
        from matplotlib.font_manager import FontProperties
        from matplotlib.path import Path as Outline
        from matplotlib.textpath import TextPath

        font = Path(matplotlib.get_data_path(), "fonts", "ttf", f"{face}.ttf")
        path = TextPath((0, 0), character, size=1000, prop=FontProperties(fname=font))
        contours = [polygon for polygon in path.to_polygons() if len(polygon) > 2]
        corners = np.concatenate(contours)
        low, high = corners.min(axis=0), corners.max(axis=0)
        centre, scale = (low + high) / 2, 1 / (high - low).max()
        self.path = Outline((path.vertices - centre) * scale, path.codes)
        self.corners = (corners - centre) * scale
        self.outline, self.pen_down = _walk([(contour - centre) * scale for contour in contours], points)


def _walk(contours: list[np.ndarray], points: int) -> tuple[np.ndarray, np.ndarray]:
    """`points` places, evenly spaced by arc length over all closed contours: xy (points, 2) and pen-down (points,)."""
    lengths = [np.concatenate([[0], np.cumsum(np.hypot(*np.diff(contour, axis=0).T))]) for contour in contours]
    starts = np.cumsum([0, *(length[-1] for length in lengths)])
    at = np.arange(points) / points * starts[-1]
    contour_of = np.searchsorted(starts, at, side="right") - 1
    xy = np.empty((points, 2))
    for number, (contour, length) in enumerate(zip(contours, lengths, strict=True)):
        mine = contour_of == number
        for axis in range(2):
            xy[mine, axis] = np.interp(at[mine] - starts[number], length, contour[:, axis])
    first = np.diff(contour_of, prepend=-1) > 0
    return xy, np.where(first, 0, 255).astype(np.uint8)


class Pen:
    """Fills paths on a canvas of size x size pixels."""

    def __init__(self, size: int) -> None:
        from matplotlib.backends.backend_agg import RendererAgg

        self.size = size
        self.canvas = RendererAgg(size, size, dpi=72)
        self.context = self.canvas.new_gc()
        self.context.set_linewidth(0)
        # Snapping would pull straight strokes to the pixel grid, away from the outline.
        self.context.set_snap(False)

    def draw(self, glyph: Glyph, matrix: np.ndarray, shift: np.ndarray) -> np.ndarray:
        """Coverage (size, size) in 0..255 of a glyph mapped into [0, 1] x [0, 1], y down."""
        from matplotlib.transforms import Affine2D

        # Agg counts y from the bottom.
        (a, c), (b, d) = self.size * matrix * [[1], [-1]]
        e, f = self.size * shift[0], self.size * (1 - shift[1])
        self.canvas.clear()
        self.canvas.draw_path(self.context, glyph.path, Affine2D.from_values(a, b, c, d, e, f), rgbFace=(1, 1, 1))
        return np.asarray(self.canvas.buffer_rgba())[:, :, 3].astype(float)


def _check(size: int, points: int, classes: int, counts: dict[str, int], at_least_0: dict[str, float]) -> None:
    def require(truth: bool, what: str) -> None:
        if not truth:
            raise KdbenchError(f"glyphs: {what}")

    require(size >= 8, f"size is {size}; the smallest is 8")
    require(points >= 8, f"points is {points}; the fewest are 8")
    require(2 <= classes <= len(CLASSES), f"classes is {classes}; from 2 to {len(CLASSES)} can be had")
    for split, count in counts.items():
        require(count >= classes, f"{split} is {count}; {classes} classes need at least {classes} samples")
    for name, value in at_least_0.items():
        require(value >= 0, f"{name} is {value}; it cannot be negative")
