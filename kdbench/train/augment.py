"""Augmentation as batched tensor code: pixels stay on their device, random numbers are drawn on the CPU.

Images are (B, C, H, W), uint8 up to the normalisation and float32 after it. Functions named `draw_...` take a
generator and return what was drawn, on the CPU; the others take what was drawn, and pixels on any device. Nothing here
makes the host wait for a CUDA device. Definitions: torchvision 0.28 (transforms.v2) and timm 1.0.31 (timm.data),
against which tests/test_augment.py holds them; departures stand with the functions.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

import kdbench.torchvision_ops  # noqa: F401
from kdbench.tensors import planar, to_device

# isort: split
from torchvision.transforms.v2 import functional as transforms

RAND_AUGMENT_BINS = 31
RAND_AUGMENT_ROUNDS = 2
"""Operations that an image goes through."""
_ATTEMPTS = 10
"""How often torchvision and timm draw a box before they give up on one that fits."""


# ------------------------------------------------------------------------------------------------------------ geometry


def crop_and_flip(pixels: Tensor, shift: Tensor, flip: Tensor | None, crop: int) -> Tensor:
    """Shift each image (B, C, H, W) by shift (2, B) pixels, black where nothing was, then mirror where flip (B,) says.

    The same as torchvision's RandomCrop(size, padding) followed by RandomHorizontalFlip, for given random numbers.
    crop: the largest shift that there may be.
    """
    batch, _, height, width = pixels.shape
    # Views of all crops, of which each image copies one: several times faster than to gather pixel by pixel.
    crops = F.pad(pixels, (crop, crop, crop, crop)).unfold(2, height, 1).unfold(3, width, 1)
    moved = crops[torch.arange(batch, device=pixels.device), :, shift[0] + crop, shift[1] + crop]
    if flip is not None:
        moved = torch.where(flip.view(-1, 1, 1, 1), moved.flip(3), moved)
    return planar(moved)


def draw_resized_crop(
    batch: int, height: int | Tensor, width: int | Tensor, smallest: float, rng: torch.Generator
) -> Tensor:
    """Boxes (4, B) int64: top, left, height, width, as torchvision's RandomResizedCrop(scale=(smallest, 1)) draws them.

    height, width: of all images, or of each (B,). Area shares are uniform, ratios width / height log-uniform in
    3/4..4/3. Of ten boxes the first that fits counts; if none does, the largest in the middle with a ratio in that
    range.
    """
    boxes, fits = _draw_boxes(batch, height, width, (height, width), (smallest, 1.0), 4 / 3, rng)
    high, wide = (torch.as_tensor(n).expand(batch).double() for n in (height, width))
    size = torch.stack([torch.minimum(high, (wide / (3 / 4)).round()), torch.minimum(wide, (high * (4 / 3)).round())])
    middle = torch.cat([(torch.stack([high, wide]) - size).div(2, rounding_mode="floor"), size]).long()
    return torch.where(fits, boxes, middle)


def draw_cubic(batch: int, interpolation: str, rng: torch.Generator) -> Tensor:
    """Which images (B,) are stretched bicubically, the others bilinearly; `random`: each with probability 1/2, as timm
    chooses."""
    return torch.rand(batch, generator=rng) < {"bilinear": 0.0, "random": 0.5, "bicubic": 1.0}[interpolation]


def resized_crop(pixels: Tensor, boxes: Tensor) -> Tensor:
    """The part boxes (4, B) of each image (B, C, H, W), bilinearly stretched to H x W.

    torchvision's resized_crop with antialias: a crop is never larger than its image, and for enlarging its antialiased
    kernel is the plain one. Rounded once, from float32, as torchvision does on CUDA; its integer arithmetic for uint8
    on a CPU differs by up to one grey level.
    """
    for dim in (2, 3):
        start, length = boxes[dim - 2].unsqueeze(1), boxes[dim].unsqueeze(1)
        size = pixels.shape[dim]
        at = (torch.arange(size, device=pixels.device) + 0.5) * (length / size) - 0.5
        at = start + torch.minimum(at.clamp(min=0), length - 1)
        low = at.floor()
        shape = [len(at), 1, size, 1] if dim == 2 else [len(at), 1, 1, size]
        near, far = (
            torch.gather(pixels, dim, i.clamp(max=size - 1).long().view(shape).expand(pixels.shape)).float()
            for i in (low, low + 1)
        )
        stretched = torch.lerp(near, far, (at - low).view(shape))
        pixels = stretched if dim == 2 else stretched.round().to(torch.uint8)
    return pixels


def stretched(pixels: Tensor, boxes: Tensor, size: tuple[int, int], cubic: Tensor) -> Tensor:
    """The part boxes (4, B) of each image (B, C, h, w) uint8, enlarged to size (H, W), bicubically where cubic (B,).

    As PIL resizes what was cut out, bit for bit: nothing beyond the box counts, and grey levels are rounded after the
    rows and once more after the columns. No side of a box may be longer than its side of `size`: PIL would use a wider
    kernel.
    """
    rows, columns = (
        enlarging_weights(boxes[i], boxes[i + 2], pixels.shape[i + 2], size[i], cubic).unsqueeze(1) for i in (0, 1)
    )
    return enlarge(pixels, rows, columns)


def enlarge(pixels: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Images (B, C, h, w) uint8 with the weights of their rows (..., H, h) and columns (..., W, w): (B, C, H, W)."""
    wide = _rounded(pixels.double() @ columns.mT)
    return _rounded(rows @ wide).to(torch.uint8)


def _rounded(levels: Tensor) -> Tensor:
    return (levels + 0.5).floor().clamp(0, 255)


def enlarging_weights(start: Tensor, length: Tensor, source: int, target: int, cubic: Tensor) -> Tensor:
    """(B, target, source) float64: what each of `source` pixels counts for each of `target` to which the `length` (B,)
    pixels from `start` (B,) are stretched; PIL's triangle and, where cubic (B,), its cubic with a = -0.5.

    Multiples of 2^-22, as in PIL, so that sums of them and grey levels are exact on every device.
    """
    start, length = (n.double().view(-1, 1, 1) for n in (start, length))
    inside = torch.arange(source, device=cubic.device, dtype=torch.float64) - start
    centre = (torch.arange(target, device=cubic.device, dtype=torch.float64).view(-1, 1) + 0.5) * (length / target)
    far = (inside + 0.5 - centre).abs()
    bicubic = torch.where(far < 1, (1.5 * far - 2.5) * far * far + 1, ((-0.5 * far + 2.5) * far - 4) * far + 2)
    weights = torch.where(cubic.view(-1, 1, 1), bicubic * (far < 2), (1 - far).clamp(min=0))
    weights = weights * ((inside >= 0) & (inside < length))
    share = weights / weights.sum(dim=-1, keepdim=True) * 2**22
    return (share + share.sign() * 0.5).trunc() / 2**22


def _draw_boxes(
    batch: int,
    height: int | Tensor,
    width: int | Tensor,
    largest: tuple[int | Tensor, int | Tensor],
    area: tuple[float, float],
    ratio: float,
    rng: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Boxes (4, B) in images of height x width pixels, all or each (B,), and whether one of ten was not empty and
    fitted, (B,).

    Their share of the area is uniform, width / height log-uniform in 1 / ratio..ratio, before both are rounded.
    largest: the height and width that fit.
    """
    share, slope, *place = torch.rand(4, _ATTEMPTS, batch, generator=rng, dtype=torch.float64)
    pixels = height * width * (area[0] + (area[1] - area[0]) * share)
    aspect = ((2 * slope - 1) * math.log(ratio)).exp()
    high, wide = (pixels / aspect).sqrt().round(), (pixels * aspect).sqrt().round()
    fits = (high > 0) & (high <= largest[0]) & (wide > 0) & (wide <= largest[1])
    top, left = (place[0] * (height - high + 1)).floor(), (place[1] * (width - wide + 1)).floor()
    first = fits.int().argmax(dim=0)
    boxes = torch.stack([top, left, high, wide])[:, first, torch.arange(batch)]
    return boxes.long(), fits.any(dim=0)


# --------------------------------------------------------------------------------------- one operation for each image
# An operation takes some images (n, C, H, W) uint8 and one magnitude for each, (n, 1, 1, 1) float64, in the units of
# torchvision's RandAugment.


def apply_each(
    pixels: Tensor, operations: Sequence[Callable[[Tensor, Tensor], Tensor]], choice: Tensor, magnitude: Tensor
) -> Tensor:
    """Each image (B, C, H, W) uint8 through the operation choice (B,) with magnitude (B,), both on the CPU."""
    counts = torch.bincount(choice, minlength=len(operations)).tolist()
    groups = to_device(choice.argsort(stable=True), pixels.device).split(counts)
    magnitude = to_device(magnitude.view(-1, 1, 1, 1), pixels.device)
    result = torch.empty_like(pixels)
    for operation, where in zip(operations, groups, strict=True):
        if len(where):
            result.index_copy_(0, where, operation(pixels[where], magnitude[where]))
    return result


def _identity(pixels: Tensor, magnitude: Tensor) -> Tensor:
    return pixels


def _from_middle(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """x (1, W) and y (H, 1) of the pixels' centres, float64, from the middle of the image."""
    y, x = (torch.arange(n, device=pixels.device, dtype=torch.float64) - (n - 1) / 2 for n in pixels.shape[2:])
    return x.view(1, -1), y.view(-1, 1)


def _read(pixels: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The pixels nearest to x and y, from the middle of the image and (n, 1, H, W) when broadcast; black outside.

    Where two are equally near (a shear by 0.2 pixels a row), torchvision's own rounding may choose the other one.
    """
    height, width = pixels.shape[2:]
    x, y = torch.broadcast_tensors(x, y)
    grid = torch.stack([x / (width / 2), y / (height / 2)], dim=-1).squeeze(1).float()
    return F.grid_sample(pixels.float(), grid, mode="nearest", align_corners=False).to(torch.uint8)


def _shear_x(pixels: Tensor, magnitude: Tensor) -> Tensor:
    """About the upper left corner, by magnitude pixels a row."""
    x, y = _from_middle(pixels)
    return _read(pixels, x + magnitude * (y + pixels.shape[2] / 2), y)


def _shear_y(pixels: Tensor, magnitude: Tensor) -> Tensor:
    x, y = _from_middle(pixels)
    return _read(pixels, x, y + magnitude * (x + pixels.shape[3] / 2))


def _translate_x(pixels: Tensor, magnitude: Tensor) -> Tensor:
    """By whole pixels."""
    x, y = _from_middle(pixels)
    return _read(pixels, x - magnitude.trunc(), y)


def _translate_y(pixels: Tensor, magnitude: Tensor) -> Tensor:
    x, y = _from_middle(pixels)
    return _read(pixels, x, y - magnitude.trunc())


def _rotate(pixels: Tensor, magnitude: Tensor) -> Tensor:
    """By degrees, against the clock."""
    x, y = _from_middle(pixels)
    cos, sin = magnitude.deg2rad().cos(), magnitude.deg2rad().sin()
    return _read(pixels, cos * x - sin * y, sin * x + cos * y)


def _blend(pixels: Tensor, other: Tensor, magnitude: Tensor) -> Tensor:
    """(1 + magnitude) pixels - magnitude other; one fused multiply-add, as torchvision's add with alpha."""
    mixed = torch.addcmul(pixels * (1 + magnitude).float(), other, -magnitude.float())
    return mixed.clamp(0, 255).to(torch.uint8)


def _brightness(pixels: Tensor, magnitude: Tensor) -> Tensor:
    return (pixels * (1 + magnitude).float()).clamp(0, 255).to(torch.uint8)


def _color(pixels: Tensor, magnitude: Tensor) -> Tensor:
    """Saturation; nothing where there is one channel."""
    return pixels if pixels.shape[1] == 1 else _blend(pixels, transforms.rgb_to_grayscale(pixels).float(), magnitude)


def _contrast(pixels: Tensor, magnitude: Tensor) -> Tensor:
    return _blend(pixels, transforms.rgb_to_grayscale(pixels).float().mean((1, 2, 3), keepdim=True), magnitude)


def _sharpness(pixels: Tensor, magnitude: Tensor) -> Tensor:
    """Away from a 3x3 blur (the middle counts five times); the outermost pixels stay."""
    if min(pixels.shape[2:]) <= 2:
        return pixels
    result = pixels.float()
    inner = result[:, :, 1:-1, 1:-1]
    sums = F.avg_pool2d(result, 3, stride=1, divisor_override=1)
    blurred = ((sums + 4 * inner) / 13).round()
    inner.copy_(torch.addcmul(inner, blurred - inner, -magnitude.float()))
    return result.clamp(0, 255).to(torch.uint8)


def _posterize(pixels: Tensor, magnitude: Tensor) -> Tensor:
    """Keep the highest `magnitude` bits."""
    lost = (8 - magnitude).to(torch.uint8)
    return pixels >> lost << lost


def _solarize(pixels: Tensor, magnitude: Tensor) -> Tensor:
    """Invert what is at least `magnitude` of white."""
    return torch.where(pixels >= (255 * magnitude).float(), 255 - pixels, pixels)


def _autocontrast(pixels: Tensor, magnitude: Tensor) -> Tensor:
    return transforms.autocontrast(pixels)


def _equalize(pixels: Tensor, magnitude: Tensor) -> Tensor:
    return transforms.equalize(pixels)


COLOR_JITTER = (_brightness, _contrast, _color)
RAND_AUGMENT = (
    _identity,
    _shear_x,
    _shear_y,
    _translate_x,
    _translate_y,
    _rotate,
    _brightness,
    _color,
    _contrast,
    _sharpness,
    _posterize,
    _solarize,
    _autocontrast,
    _equalize,
)
"""torchvision's, in its order."""
_SIGNED = tuple(range(1, 10))
"""Positions of those that go both ways."""


@functools.cache
def rand_augment_magnitudes(magnitude: int, height: int, width: int) -> Tensor:
    """(14,) float64: what bin `magnitude` of 0..30 means to each operation on images of height x width pixels."""

    def up_to(top: float, start: float = 0.0) -> float:
        return torch.linspace(start, top, RAND_AUGMENT_BINS)[magnitude].item()

    bits = round(8 - magnitude / ((RAND_AUGMENT_BINS - 1) / 4))
    shift = [up_to(150 / 331 * size) for size in (width, height)]
    color = [up_to(0.9)] * 4
    values = [0.0, up_to(0.3), up_to(0.3), *shift, up_to(30.0), *color, bits, up_to(0.0, 1.0), 0.0, 0.0]
    return torch.tensor(values, dtype=torch.float64)


def draw_rand_augment(
    batch: int, height: int, width: int, magnitude: int, rng: torch.Generator
) -> list[tuple[Tensor, Tensor]]:
    """For each round the operation (B,) of each image, a position in RAND_AUGMENT, and its magnitude (B,)."""
    table = rand_augment_magnitudes(magnitude, height, width)
    signed = torch.zeros(len(RAND_AUGMENT), dtype=torch.bool)
    signed[list(_SIGNED)] = True
    rounds = []
    for _ in range(RAND_AUGMENT_ROUNDS):
        choice = torch.randint(len(RAND_AUGMENT), (batch,), generator=rng)
        down = signed[choice] & (torch.rand(batch, generator=rng) < 0.5)
        rounds.append((choice, torch.where(down, -table[choice], table[choice])))
    return rounds


# ------------------------------------------------------------------------------------------------- timm's RandAugment
# timm's operations are PIL's; these differ from them by one grey level at most.

TIMM_LEVELS = 10.0
"""The highest magnitude."""


def _invert(pixels: Tensor, magnitude: Tensor) -> Tensor:
    return 255 - pixels


def _solarize_from(pixels: Tensor, threshold: Tensor) -> Tensor:
    """Invert what is at least `threshold`."""
    return torch.where(pixels >= threshold, 255 - pixels, pixels)


def _solarize_add(pixels: Tensor, added: Tensor) -> Tensor:
    """Add to what is below 128."""
    return torch.where(pixels < 128, (pixels + added).clamp(max=255).to(torch.uint8), pixels)


_TIMM_COLORS = (
    _identity,
    _autocontrast,
    _equalize,
    _invert,
    _posterize,
    _solarize_from,
    _solarize_add,
    _color,
    _contrast,
    _brightness,
    _sharpness,
)
Way = Callable[[Tensor, Tensor, Tensor, int, int], tuple[Tensor, Tensor]]
"""x (1, W) and y (H, 1) from the middle, a magnitude, height and width -> where to read, from the middle too."""
_TIMM_WAYS: tuple[Way, ...] = (
    lambda x, y, m, h, w: (
        m.deg2rad().cos() * x - m.deg2rad().sin() * y,
        m.deg2rad().sin() * x + m.deg2rad().cos() * y,
    ),
    lambda x, y, m, h, w: (x + m * (y + h / 2), y),
    lambda x, y, m, h, w: (x, y + m * (x + w / 2)),
    lambda x, y, m, h, w: (x + m * w, y),
    lambda x, y, m, h, w: (x, y + m * h),
)
"""Rotation (degrees), shears (pixels a row or column), translations (shares of a side)."""
TIMM_OPERATIONS = len(_TIMM_COLORS) - 1 + len(_TIMM_WAYS)
"""Without the identity, which stands for one that is left out."""


def timm_rand_augment(fill: Tensor) -> tuple[Callable[[Tensor, Tensor], Tensor], ...]:
    """timm's operations, their magnitudes in PIL's units; those that move pixels once bilinear and once bicubic.

    fill: grey levels (1, C, 1, 1) of what comes from outside.
    """
    moves = itertools.product((_linear, _cubic), _TIMM_WAYS)
    return (*_TIMM_COLORS, *(functools.partial(_move, way=way, kernel=kernel, fill=fill) for kernel, way in moves))


def _move(pixels: Tensor, magnitude: Tensor, way: Way, kernel: Callable, fill: Tensor) -> Tensor:
    """Pixels (n, C, H, W) read where the way leads, as by PIL's Image.transform with a fillcolor: by the kernel between
    pixels, from the outermost of them at the border, and rounded down."""
    height, width = pixels.shape[2:]
    x, y = torch.broadcast_tensors(*way(*_from_middle(pixels), magnitude, height, width))
    x, y = x + width / 2, y + height / 2
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    left, top = (x - 0.5).floor(), (y - 0.5).floor()
    flat = pixels.flatten(2)

    def read(i: int, j: int) -> Tensor:
        at = (top + j).clamp(0, height - 1) * width + (left + i).clamp(0, width - 1)
        return flat.gather(2, at.long().flatten(2).expand(flat.shape)).view_as(pixels).float()

    reach = range(2) if kernel is _linear else range(-1, 3)
    right, down = (x - 0.5 - left).float(), (y - 0.5 - top).float()
    moved = kernel([kernel([read(i, j) for i in reach], right) for j in reach], down)
    return torch.where(inside, moved.clamp(0, 255), fill).to(torch.uint8)


def _linear(values: Sequence[Tensor], share: Tensor) -> Tensor:
    """Between two neighbours."""
    near, far = values
    return near + share * (far - near)


def _cubic(values: Sequence[Tensor], share: Tensor) -> Tensor:
    """Between the inner two of four neighbours, as PIL does: Keys' cubic with a = -1."""
    a, b, c, d = values
    return b + share * (c - a + share * (2 * (a - b) + c - d + share * (b - a + d - c)))


def draw_timm_rand_augment(
    batch: int, magnitude: float, deviation: float, rng: torch.Generator
) -> list[tuple[Tensor, Tensor]]:
    """For each round the operation (B,) of each image, a position in `timm_rand_augment`, and its magnitude (B,).

    All operations are equally likely, and half of them are left out; a level is normal, within 0..10; what goes both
    ways does so equally often, and so do the two kernels of what moves pixels.
    """
    rounds = []
    for _ in range(RAND_AUGMENT_ROUNDS):
        choice = torch.randint(1, TIMM_OPERATIONS + 1, (batch,), generator=rng)
        left_out, down, bicubic = torch.rand(3, batch, generator=rng) < 0.5
        noise = torch.randn(batch, generator=rng, dtype=torch.float64)
        level = (magnitude + deviation * noise).clamp(0, TIMM_LEVELS) / TIMM_LEVELS
        signed = torch.where(down, -level, level)
        nothing, factor = torch.zeros_like(level), (1 + 0.9 * signed).clamp(min=0.1) - 1
        values = [nothing] * 4 + [4 - (4 * level).floor(), 256 - (256 * level).floor(), (110 * level).floor()]
        values += [factor] * 4 + [30 * signed] + [0.3 * signed] * 2 + [0.45 * signed] * 2
        value = torch.stack(values).gather(0, choice.unsqueeze(0)).squeeze(0)
        choice = torch.where(bicubic & (choice >= len(_TIMM_COLORS)), choice + len(_TIMM_WAYS), choice)
        rounds.append((torch.where(left_out, 0, choice), value))
    return rounds


def draw_color_jitter(batch: int, strength: float, rng: torch.Generator) -> list[tuple[Tensor, Tensor]]:
    """For each of three rounds the operation (B,) of each image, a position in COLOR_JITTER, and its magnitude (B,).

    As torchvision's ColorJitter(strength, strength, strength): every image goes through all three in an order of its
    own, by factors that are uniform in [max(0, 1 - strength), 1 + strength]; a magnitude is a factor less 1.
    """
    low = max(-1.0, -strength)
    magnitude = low + (strength - low) * torch.rand(len(COLOR_JITTER), batch, generator=rng, dtype=torch.float64)
    orders = torch.rand(len(COLOR_JITTER), batch, generator=rng).argsort(dim=0)
    return list(zip(orders, magnitude.gather(0, orders), strict=True))


# ------------------------------------------------------------------------------------------------------------- erasing


def draw_erasing(shape: Sequence[int], probability: float, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """What is erased of normalised images of shape (B, C, H, W): flat positions (M,) int64 and normal values (M,).

    As timm's RandomErasing in the mode `pixel`: one box an image, of an area share uniform in 0.02..1/3, with a ratio
    log-uniform in 0.3..1/0.3, not empty (timm's may be, below 6 px) and smaller than the image along both sides; none
    where ten did not fit.
    """
    batch, _, height, width = shape
    boxes, fits = _draw_boxes(batch, height, width, (height - 1, width - 1), (0.02, 1 / 3), 1 / 0.3, rng)
    erased = fits & (torch.rand(batch, generator=rng) < probability)
    top, left, high, wide = boxes.view(4, batch, 1, 1)
    rows, columns = torch.arange(height).view(-1, 1), torch.arange(width)
    inside = (rows >= top) & (rows < top + high) & (columns >= left) & (columns < left + wide)
    inside &= erased.view(-1, 1, 1)
    positions = inside.unsqueeze(1).expand(*shape).flatten().nonzero().squeeze(1)
    return positions, torch.randn(len(positions), generator=rng)


def erase(x: Tensor, positions: Tensor, values: Tensor) -> Tensor:
    """x (B, C, H, W) float32 with values (M,) at flat positions (M,)."""
    return x.flatten().index_copy(0, positions, values).view_as(x)


# -------------------------------------------------------------------------------------------------------------- mixing


def draw_mixing(
    mixup: float,
    cutmix: float,
    height: int,
    width: int,
    rng: np.random.Generator,
    probability: float = 1.0,
    switch: float = 0.5,
) -> tuple[float, tuple[int, int, int, int] | None]:
    """How a batch is mixed with itself in reverse, as timm's Mixup in the mode `batch` (its default).

    mixup, cutmix: the two alphas, of which one may be 0. probability: of mixing at all; else the share is 1. switch:
    of cutmix, where both are given. Returns the share that an image keeps and, for cutmix, the box (top, bottom, left,
    right) that it does not; the share is then that of the box as it was clipped at the border.
    """
    if probability < 1 and rng.random() >= probability:
        return 1.0, None
    cut = cutmix > 0 and (mixup == 0 or rng.random() < switch)
    if not cut:
        return rng.beta(mixup, mixup), None
    ratio = math.sqrt(1 - rng.beta(cutmix, cutmix))
    box, area = [], 1
    for size in (height, width):
        length, middle = int(size * ratio), int(rng.integers(size))
        low, high = max(middle - length // 2, 0), min(middle + (length + 1) // 2, size)
        box += [low, high]
        area *= high - low
    return 1 - area / (height * width), tuple(box)


def mix(x: Tensor, share: float, box: tuple[int, int, int, int] | None = None) -> Tensor:
    """x (B, ...), images or targets, mixed with itself in reverse: share x + (1 - share) reversed, or pasted in a box.

    An odd batch, which timm refuses, has one sample in its middle that stays what it is.
    """
    if box is None:
        return x * share + x.flip(0) * (1 - share)
    top, bottom, left, right = box
    mixed = x.clone()
    mixed[:, :, top:bottom, left:right] = x.flip(0)[:, :, top:bottom, left:right]
    return mixed
