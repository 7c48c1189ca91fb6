"""UHKD: stage features matched as compact amplitude spectra. Reconstructed from the abstract.

Yu et al., "UHKD", arXiv 2510.24116. Neither its text beyond the abstract nor code was available, so nothing here is the
paper's equation: the abstract says that a Fourier transform captures global feature information, that a Feature
Transformation Module (FTM) makes compact frequency-domain representations of teacher features, that a learnable Feature
Alignment Module (FAM) projects student features and matches them on several levels, and that the objective is MSE on
features plus KL divergence on logits. Each decision that this leaves open is a parameter with a default and a fallback.

    stage i:  teacher map -> fft2 -> centred crop -> log(1 + |X|) -> standardised per (channel, frequency)
              student map -> FAM to the teacher's channels -> the same, standardised by batch statistics
    loss:     CE + alpha T^2 KL + beta * mean over stages of the MSE

Both crops hold the same frequencies in cycles per image, whatever the two grids; nothing is interpolated. Readings that
use the whole band, pooling, a random projection or no spectrum first average the finer map down to the coarser grid.
A stage of a 2x2 or 1x1 grid is compared in its mean over space alone (told in the notes).

Standardisation makes the loss of independent signals 2 at every frequency and rewards no spectral envelope that all
features share. The teacher's statistics come from one pass over un-augmented training samples (`prepare`; the engine
gives 2,048) and stay frozen; until then they are NaN, so that forgetting the pass cannot go unnoticed.

With norm="ortho" the DFT is unitary, so a full-band real + imaginary MSE is half the spatial MSE (control C1 against
C0, normalisation "off"). Controls fix the parameters that define them; setting those otherwise is an error.

    C0  spatial MSE behind the same FAM; decision 10 then standardises per (channel, position)
    C1  full band, real + imaginary parts
    C2  crop, real + imaginary parts: a blurred FitNet
    C3  full band, plain amplitude: phase dropped
    C4  C2 with a phase-scrambled teacher: random phases, fresh for each sample, channel and step; DC stays
    C5  a fixed random projection of the grid with orthonormal rows, as many as the crop has bins
    C6  DC alone: the mean over space

At the first step each level's loss, the share of it at DC and its loss against a teacher shuffled within the batch are
kept, to be recorded beside the result: they tell a loss that is nearly all DC, or one that rewards what all share.

Nothing here may be called UHKD without the mark: the default is one reading of eight (`READINGS`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.frequency import Grid, coarser_grid, crop_size, frequencies, full_precision, low_spectrum, spectrum
from kdbench.methods.base import Distiller, cross_entropy, fewer_than_four_stages, ramp
from kdbench.methods.kd import kd_loss
from kdbench.tensors import planar, to_device
from kdbench.types import KdbenchError, PairShapes, Signals

TITLE = "UHKD"
GROUP = "frequency"
MAIN_WEIGHT = "beta"
HARNESS = "OFA"
MARK = "†"
FOOTNOTE = "reconstructed from the abstract; decisions in docs"
BIBTEX = """
@article{yu2025uhkd,
  author = {Yu, Fengming and Pan, Haiwei and Zhang, Kejia and Guan, Jian and Jiang, Haiying},
  title = {{UHKD}: A Unified Framework for Heterogeneous Knowledge Distillation via Frequency-Domain Representations},
  journal = {arXiv preprint arXiv:2510.24116},
  year = {2025},
}
"""

READINGS = {
    "representation": ("log_amplitude", "complex"),
    "compact": ("crop", "pool"),
    "normalisation": ("frequency", "layer"),
}
"""The decisions that the abstract leaves widest open; their product is the eight readings whose range a table shows."""

WITHOUT_SPECTRUM = {
    "tokens": "grid",
    "fam": "space",
    "refine": "none",
    "norm": "ortho",
    "transform": "fft2",
    "representation": "log_amplitude",
    "compact": "crop",
}
CONTROLS = {
    "none": {},
    "C0": WITHOUT_SPECTRUM,
    "C1": {"compact": "full", "representation": "complex", "transform": "fft2", "norm": "ortho"},
    "C2": {"compact": "crop", "representation": "complex"},
    "C3": {"compact": "full", "representation": "amplitude"},
    "C4": {"compact": "crop", "representation": "complex"},
    "C5": WITHOUT_SPECTRUM,
    "C6": {"compact": "crop", "largest_crop": 1, "refine": "none"},
}

DIAGNOSTICS = ("loss", "dc_share", "shuffled_loss")
"""Of every level at the first step: its MSE before all weights, the share of it that falls on the bins that hold DC
(controls C0 and C5 have none), and the MSE when each student meets the teacher of the sample half a batch away."""


@dataclass(frozen=True)
class Params:
    """Decision n is that of the reconstruction's list of 15; 1, 2, 14 and 15 are the suite's and the tables'."""

    control: Literal["none", "C0", "C1", "C2", "C3", "C4", "C5", "C6"] = "none"
    """A control in place of the method; see the list above (ours)."""
    tokens: Literal["grid", "sequence"] = "grid"
    """Decision 3: 2-D transform of the map, or 1-D transform of its positions in reading order, on both sides."""
    norm: Literal["ortho", "forward"] = "ortho"
    """Decision 4: scaling of the transform; with "forward" the logarithm is all but linear and DC dominates."""
    transform: Literal["fft2", "rfft2"] = "fft2"
    """Decision 4: all frequencies, or the half plane that a real map needs."""
    representation: Literal["log_amplitude", "amplitude", "complex"] = "log_amplitude"
    """Decision 5: log(1 + |X|), |X| (control C3), or stacked real and imaginary parts (fallback)."""
    compact: Literal["crop", "pool", "full"] = "crop"
    """Decision 6: centred crop, adaptive average pooling of the spectrum to the crop's size (fallback), or neither."""
    largest_crop: int = 7
    """Decision 6: upper bound of the crop's size; odd."""
    crop_rule: Literal["half_nyquist", "largest"] = "half_nyquist"
    """Decision 6: at most half the Nyquist frequency of the coarser grid, or `largest_crop` wherever it fits."""
    refine: Literal["none", "gaussian"] = "none"
    """Decision 7: the crop is the low-pass, or a Gaussian low-pass exp(-r^2 / (2 sigma^2)) comes before it."""
    sigma: float = 1.5
    """Decision 7: the Gaussian's width in cycles per image; half the edge of a 7 x 7 crop (ours)."""
    ftm: Literal["none", "batch_norm"] = "none"
    """Decision 8: teacher maps as they are, or standardised per channel by frozen training-set statistics."""
    fam: Literal["space", "spectrum"] = "space"
    """Decision 9: 1x1 conv, BN, GELU, depthwise 3x3, 1x1 conv before the transform, or one 1x1 conv after it."""
    normalisation: Literal["frequency", "layer", "channel", "off"] = "frequency"
    """Decision 10: per (channel, frequency); LayerNorm without affine; one running teacher std a channel; or none."""
    levels: Literal["same", "last_two", "all_to_all"] = "same"
    """Decision 11: stage i with stage i; stages 3 and 4 only; or all pairs, weighted by a learned softmax."""
    alpha: float = 1.0
    """Decision 12: weight of the KL term (OFA harness: 1)."""
    temperature: float = 1.0
    """Decision 12: temperature of the KL term (OFA harness: 1; fallback 4)."""
    beta: float = 1.0
    """Decision 12: weight of the feature term, 1; the fallback chooses among 0.1, 1, 10 on a split of train."""
    ramp: float = 0.0
    """Decision 13: share of the training over which beta rises linearly from 0; fallback 20 of 300 epochs, 0.067."""

    def __post_init__(self) -> None:
        fixed = CONTROLS[self.control]
        for field in fields(self):
            value = getattr(self, field.name)
            if value not in (fixed.get(field.name, value), field.default):
                raise KdbenchError(f"uhkd: control {self.control} fixes {field.name}; {value!r} contradicts it")
        linear = fixed.get("representation", self.representation) != "log_amplitude"
        if self.refine == "gaussian" and self.normalisation == "frequency" and linear:
            raise KdbenchError("uhkd: standardisation per frequency undoes the Gaussian of a linear representation")
        if self.ftm == "batch_norm" and self.normalisation in ("frequency", "channel"):
            raise KdbenchError(
                f"uhkd: ftm='batch_norm' and normalisation={self.normalisation!r} standardise the teacher twice; "
                "take one (normalisation 'layer' or 'off' goes with batch_norm)"
            )
        if self.largest_crop < 1 or self.largest_crop % 2 == 0:
            raise KdbenchError(f"uhkd: largest_crop must be odd and at least 1, got {self.largest_crop}")
        if self.temperature <= 0 or self.sigma <= 0 or not 0 <= self.ramp <= 1:
            raise KdbenchError("uhkd: temperature and sigma must be above 0, ramp between 0 and 1")

    @property
    def resolved(self) -> Params:
        """With what the control fixes."""
        return replace(self, **CONTROLS[self.control])


def scramble_phase(maps: Tensor) -> Tensor:
    """Maps (B, C, H, W) with the amplitudes of the input and random phases; the mean over space stays."""
    rotation = torch.fft.fft2(torch.randn_like(maps))
    rotation = rotation / rotation.abs().clamp_min(1e-12)
    rotation[..., 0, 0] = 1
    return torch.fft.ifft2(torch.fft.fft2(maps) * rotation).real


def feature_alignment(student_channels: int, teacher_channels: int) -> nn.Sequential:
    """The FAM in space: (B, C_s, H, W) -> (B, C_t, H, W)."""
    return nn.Sequential(
        nn.Conv2d(student_channels, teacher_channels, 1, bias=False),
        nn.BatchNorm2d(teacher_channels),
        nn.GELU(),
        nn.Conv2d(teacher_channels, teacher_channels, 3, padding=1, groups=teacher_channels),
        nn.Conv2d(teacher_channels, teacher_channels, 1),
    )


class Moments:
    """Mean and variance over the first axis of tensors that come in pieces, summed in fp64."""

    def __init__(self) -> None:
        self.count, self.total, self.squares = 0, 0.0, 0.0

    def add(self, x: Tensor) -> None:
        x = x.double()
        self.count, self.total, self.squares = self.count + len(x), self.total + x.sum(0), self.squares + (x * x).sum(0)

    def write(self, mean: Tensor, variance: Tensor) -> None:
        average = self.total / self.count
        mean.copy_(average)
        variance.copy_((self.squares / self.count - average**2).clamp_min(0))


class Level(nn.Module):
    """One student stage against one teacher stage: maps (B, C_s, H, W) and (B, C_t, H', W') -> MSE."""

    EPSILON = 1e-5
    """Added to variances, on both sides alike (the default of BatchNorm)."""

    def __init__(self, params: Params, student_shape: tuple[int, ...], teacher_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.params = params
        (student_channels, *student_grid), (channels, *teacher_grid) = student_shape, teacher_shape
        grids = [(1, g[0] * g[1]) if params.tokens == "sequence" else tuple(g) for g in (student_grid, teacher_grid)]
        self.grid: Grid = coarser_grid(*grids)
        self.size = crop_size(*grids, largest=params.largest_crop, half_nyquist=params.crop_rule == "half_nyquist")
        if params.fam == "space":
            self.align = feature_alignment(student_channels, channels)
            if params.compact == "crop":
                constant = torch.ones(1, 1, *grids[0], dtype=torch.float64)
                peak, _ = low_spectrum(constant, self.size, params.norm, params.transform == "rfft2")
                self.register_buffer("peak", peak[0, 0], persistent=False)
        else:
            self.align = nn.Conv1d(student_channels, channels, 1, bias=False)
        if params.control == "C5":
            positions = self.grid[0] * self.grid[1]
            random = torch.randn(positions, self.size[0] * self.size[1], dtype=torch.float64)
            self.register_buffer("projection", torch.linalg.qr(random).Q.float())
        # A constant map has a spectrum where DC is, and nowhere else.
        constant = self.represent(torch.ones(1, 1, *teacher_grid))[0, 0]
        features = len(constant)
        dc = (constant.abs() > 1e-3).float()
        without_spectrum = params.control in ("C0", "C5")
        self.register_buffer("dc", torch.full_like(dc, torch.nan) if without_spectrum else dc, persistent=False)
        self.register_buffer("at_start", torch.full((len(DIAGNOSTICS),), torch.nan))
        if params.normalisation == "frequency":
            self.student_norm = nn.BatchNorm1d(channels * features, eps=self.EPSILON, affine=False)
            self._teacher_statistics(channels, features)
        elif params.normalisation == "channel":
            self.register_buffer("teacher_std", torch.full((channels, 1), torch.nan))
        if params.ftm == "batch_norm":
            self._teacher_statistics(channels, 1)

    def _teacher_statistics(self, *shape: int) -> None:
        self.register_buffer("teacher_mean", torch.full(shape, torch.nan))
        self.register_buffer("teacher_variance", torch.full(shape, torch.nan))

    # ------------------------------------------------------------------------------------------- FTM and FAM

    def represent(self, maps: Tensor, last: nn.Conv2d | None = None) -> Tensor:
        """Maps (B, C, H, W) -> their compact representation (B, C, F).

        last: a 1x1 convolution that the maps still need. It commutes with what is linear in space, and is done after
        the low-pass, where there are fewer places than in the maps.
        """
        p = self.params
        maps = full_precision(maps)
        if p.tokens == "sequence":
            maps = maps.flatten(2).unsqueeze(2)
        if p.control in ("C0", "C5") or p.compact != "crop":
            maps = F.adaptive_avg_pool2d(maps, self.grid)
            if last is not None:
                maps = full_precision(last(maps))
        if p.control == "C0":
            return maps.flatten(2)
        if p.control == "C5":
            with torch.autocast(maps.device.type, enabled=False):
                return maps.flatten(2) @ self.projection.to(maps.dtype)
        half = p.transform == "rfft2"
        if p.compact == "crop":
            real, imaginary = low_spectrum(maps, self.size, p.norm, half)
            if last is not None:
                with torch.autocast(maps.device.type, enabled=False):
                    real, imaginary = (F.conv2d(planar(part), last.weight) for part in (real, imaginary))
                    real = real + last.bias[:, None, None] * self.peak.to(real.dtype)
        else:
            shifted = spectrum(maps, p.norm, half)
            real, imaginary = shifted.real, shifted.imag
        if p.refine == "gaussian":
            grid = self.size if p.compact == "crop" else tuple(maps.shape[-2:])
            vertical, horizontal = frequencies(grid, half)
            lowpass = torch.exp(-(vertical**2 + horizontal**2) / (2 * p.sigma**2))
            lowpass = to_device(lowpass.to(maps.dtype), maps.device)
            real, imaginary = real * lowpass, imaginary * lowpass
        if p.representation == "complex":
            parts = [real, imaginary]
        else:
            # The clamp keeps the gradient of a frequency that is exactly 0 at 0.
            amplitude = (real.square() + imaginary.square()).clamp_min(1e-30).sqrt()
            parts = [amplitude.log1p() if p.representation == "log_amplitude" else amplitude]
        if p.compact == "pool":
            size = (self.size[0], self.size[1] // 2 + 1) if half else self.size
            parts = [F.adaptive_avg_pool2d(part, size) for part in parts]
        return torch.cat([part.flatten(2) for part in parts], dim=2)

    def represent_student(self, maps: Tensor) -> Tensor:
        maps = full_precision(maps)
        if self.params.fam == "space":
            return self.represent(self.align[:-1](maps), self.align[-1])
        return full_precision(self.align(self.represent(maps)))

    @torch.no_grad()
    def represent_teacher(self, maps: Tensor) -> Tensor:
        maps = full_precision(maps)
        if self.params.ftm == "batch_norm":
            mean, variance = self.teacher_mean.unsqueeze(-1), self.teacher_variance.unsqueeze(-1)
            maps = (maps - mean) * (variance + self.EPSILON).rsqrt()
        if self.params.control == "C4":
            maps = scramble_phase(maps)
        return self.represent(maps)

    # ---------------------------------------------------------------------------------------- normalisation

    def statistics_of(self, maps: Tensor) -> Tensor | None:
        """What `prepare` averages over its first axis: (N, C, F), or None where nothing is standardised."""
        if self.params.ftm == "batch_norm":
            return full_precision(maps).permute(0, 2, 3, 1).flatten(0, 2).unsqueeze(-1)
        return self.represent_teacher(maps) if self.params.normalisation == "frequency" else None

    def normalise(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Both representations (B, C, F) after decision 10."""
        kind = self.params.normalisation
        if kind == "frequency":
            student = self.student_norm(student.flatten(1)).view_as(student)
            return student, (teacher - self.teacher_mean) * (self.teacher_variance + self.EPSILON).rsqrt()
        if kind == "layer":
            return F.layer_norm(student, student.shape[1:]), F.layer_norm(teacher, teacher.shape[1:])
        if kind == "channel":
            if self.training:
                batch = teacher.std(dim=(0, 2), correction=0)[:, None].to(self.teacher_std.dtype)
                first = self.teacher_std.isnan()
                self.teacher_std.copy_(torch.where(first, batch, self.teacher_std.lerp(batch, 0.1)))
            scale = self.teacher_std.clone() + self.EPSILON
            return student / scale, teacher / scale
        return student, teacher

    @torch.no_grad()
    def look(self, student: Tensor, teacher: Tensor) -> None:
        """Keeps DIAGNOSTICS of normalised representations (B, C, F); draws nothing and waits for no device."""
        squares = (student - teacher).square()
        share = (squares * self.dc).sum() / squares.sum()
        shuffled = F.mse_loss(student, teacher.roll(len(teacher) // 2, dims=0))
        self.at_start.copy_(torch.stack([squares.mean(), share, shuffled]))

    def forward(self, student_maps: Tensor, teacher_maps: Tensor, first: bool) -> Tensor:
        student, teacher = self.normalise(self.represent_student(student_maps), self.represent_teacher(teacher_maps))
        if first:
            self.look(student, teacher)
        return F.mse_loss(student, teacher)


class Method(Distiller):
    Params = Params

    def __init__(self, params: Params, pair: PairShapes) -> None:
        super().__init__(params, pair)
        resolved = params.resolved
        stages = {"same": (0, 1, 2, 3), "last_two": (2, 3), "all_to_all": (0, 1, 2, 3)}[params.levels]
        self.matches = [(s, stages if params.levels == "all_to_all" else (s,)) for s in stages]
        self.levels = nn.ModuleDict(
            {
                f"{s + 1}-{t + 1}": Level(resolved, pair.student.stages[s], pair.teacher.stages[t])
                for s, partners in self.matches
                for t in partners
            }
        )
        self.level_logits = nn.Parameter(torch.zeros(4, 4)) if params.levels == "all_to_all" else None
        self.wants_prepare = params.normalisation == "frequency" or params.ftm == "batch_norm"

    @classmethod
    def needs(cls, params: Any) -> frozenset[str]:
        return frozenset({"logits", "stages"})

    @classmethod
    def supports(cls, params: Any, pair: PairShapes) -> str | None:
        return fewer_than_four_stages(pair)

    def notes(self) -> list[str]:
        if self.params.resolved.compact != "crop" or self.params.control in ("C0", "C6"):
            return []
        means = [name.split("-")[0] for name, level in self.levels.items() if level.size == (1, 1)]
        stages = ", ".join(dict.fromkeys(means))
        return [f"grids too coarse for more than the mean over space at student stage {stages}"] if stages else []

    def diagnostics(self) -> dict[str, float]:
        values = {
            f"{what}_{name}": value
            for name, level in self.levels.items()
            for what, value in zip(DIAGNOSTICS, level.at_start.tolist(), strict=True)
        }
        return {name: value for name, value in values.items() if math.isfinite(value)}

    @torch.no_grad()
    def prepare(self, teacher_batches: Iterable[Signals]) -> None:
        moments = {name: Moments() for name in self.levels}
        for signals in teacher_batches:
            for name, level in self.levels.items():
                moments[name].add(level.statistics_of(signals.stages[int(name[-1]) - 1]))
        for name, level in self.levels.items():
            moments[name].write(level.teacher_mean, level.teacher_variance)

    def forward(self, student: Signals, teacher: Signals | None, target: Tensor, progress: float) -> dict[str, Tensor]:
        p = self.params
        terms = {"ce": cross_entropy(student.logits, target)}
        if p.alpha:
            terms["kd"] = p.alpha * kd_loss(student.logits, teacher.logits, p.temperature)
        weight = p.beta * ramp(progress, p.ramp) / len(self.matches)
        for s, partners in self.matches:
            losses = torch.stack(
                [
                    self.levels[f"{s + 1}-{t + 1}"](student.stages[s], teacher.stages[t].detach(), progress == 0)
                    for t in partners
                ]
            )
            shares = self.level_logits[s].softmax(dim=0) if self.level_logits is not None else 1.0
            terms[f"stage{s + 1}"] = weight * (shares * losses).sum()
        return terms
