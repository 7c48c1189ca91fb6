"""The vocabulary of kdbench. Read this file first.

A *suite* (one YAML) is a list of *blocks*; a block compares *methods* on *pairs* over one data set. A pair is a
teacher *model* and a student model. A **run** is one (pair, method, seed, budget); a **cohort** is all runs of one
(pair, seed, budget), trained side by side on the same batches; a **job** is one process that trains one or more
cohorts.

Nothing here imports torch, so that the Snakefile can be parsed in a second.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor


class KdbenchError(Exception):
    """A mistake that a person can mend: printed as one sentence without a traceback, exit code 2."""


AUTO_AUGMENT = re.compile(r"rand-m(\d+)-mstd(\d+(?:\.\d+)?)-inc1")
"""What timm's RandAugment may be called: a magnitude 0..10 and its standard deviation."""


# ---------------------------------------------------------------------------------------------------- what is compared


@dataclass(frozen=True)
class DataSpec:
    """One data set of a suite: `source` names a file of kdbench/data/sources, `args` are its keyword arguments."""

    name: str
    source: str
    args: dict[str, Any] = field(default_factory=dict)
    draw_by_seed: bool = False
    """Whether every seed trains on samples of its own: those of the source's argument `draw` at that number."""

    def draw(self, seed: int) -> dict[str, int]:
        """The argument that gives a seed its own samples; none where it has those of draw 0, the source's default."""
        return {"draw": seed} if self.draw_by_seed and seed else {}

    def drawn(self, seed: int) -> DataSpec:
        """The data that the runs of a seed are trained with, teachers among them."""
        return replace(self, args=self.args | self.draw(seed), draw_by_seed=False)


@dataclass(frozen=True)
class Recipe:
    """How one model is trained; shared by every method of a row, never chosen by a method."""

    name: str
    lr: float
    """The highest learning rate, which follows the warm-up; where `lr_per` is given, that for so many samples a step.
    """
    lr_per: int | None = None
    """Samples of a step that `lr` is meant for: the highest rate is in proportion to the global batch."""
    optimizer: str = "adamw"
    """`adamw`, or `sgd`."""
    min_lr: float = 0.0
    """Floor of the cosine schedule."""
    milestones: tuple[float, ...] = ()
    """In place of the cosine: shares of all steps after each of which the learning rate is a tenth of what it was."""
    poly: float = 0.0
    """In place of the cosine: after each epoch the learning rate falls towards `min_lr`, its height above it in
    proportion to the share of epochs left to this power, as in FD-CMKD's code; 0: off."""
    momentum: float = 0.9
    """SGD only."""
    nesterov: bool = True
    """SGD only."""
    weight_decay: float = 0.05
    """Applied to weight matrices and kernels; not to biases, norms, class tokens or position embeddings by default."""
    decay_all: bool = False
    """Apply it to biases and norms too."""
    decay_embeddings: bool = False
    """Apply it to class tokens and position embeddings too, as OFA's harness does."""
    batch_size: int = 64
    accumulate: int = 1
    """Batches of a step, which follows the mean of their gradients."""
    epochs: int | None = None
    """Passes over the training set. Exactly one of `epochs` and `steps` is given."""
    steps: int | None = None
    """Optimizer steps."""
    warmup: float = 0.1
    """Share of all steps over which the learning rate rises linearly from 0."""
    warmup_epochs: float | None = None
    """In place of `warmup`: epochs over which it rises from `warmup_lr`, and timm's schedule. That keeps one rate for a
    whole epoch, and counts the cosine or the milestones from the first epoch, warm-up included."""
    warmup_lr: float = 0.0
    """Rate of the first of the `warmup_epochs`."""
    ema_decay: float = 0.0
    """Share that a moving average of the student's weights and statistics keeps at each step; 0: there is none. It is
    evaluated beside the student and decides nothing."""
    clip_grad: float | None = None
    """Largest gradient norm."""
    clip: Literal["apart", "together"] = "apart"
    """Whether that is the norm of the student's gradient and of the method's, each apart, or of both together, as in
    OFA's harness."""
    label_smoothing: float = 0.0
    crop: int = 0
    """Random crop after zero padding by this many pixels (images only)."""
    flip: bool = False
    """Random horizontal flip (images only)."""
    resized_crop: float = 0.0
    """Smallest share of the area that a random crop of another shape keeps before it is stretched back; 0: off (images
    only, in place of `crop`)."""
    interpolation: Literal["bilinear", "bicubic", "random"] = "bilinear"
    """How `resized_crop` stretches; `random`: either of the two for each image, as timm does it."""
    rand_augment: int = 0
    """Magnitude 1..30 of torchvision's RandAugment, two operations an image; 0: off (images only)."""
    auto_augment: str = ""
    """In its place timm's RandAugment, in timm's words: rand-m9-mstd0.5-inc1 (images only)."""
    color_jitter: float = 0.0
    """Brightness, contrast and saturation change by factors of 1 less to 1 plus this; 0: off (images only)."""
    erasing: float = 0.0
    """Probability that a random box of an image becomes noise (images only)."""
    mixup: float = 0.0
    """Alpha of mixup; 0: off. Mixes every modality and the labels, which become soft."""
    cutmix: float = 0.0
    """Alpha of CutMix; 0: off (images only). With `mixup`, each has a share of the batches."""
    mixup_prob: float = 1.0
    """Share of the batches that are mixed at all."""
    mixup_switch_prob: float = 0.5
    """Share of these that CutMix has where `mixup` is given too."""

    @property
    def global_batch(self) -> int:
        """Samples of a step."""
        return self.batch_size * self.accumulate

    @property
    def peak_lr(self) -> float:
        """The highest learning rate at the recipe's own global batch."""
        return self.lr * self.global_batch / self.lr_per if self.lr_per else self.lr

    def times(self, budget: float) -> Recipe:
        """The recipe of a training that is `budget` times as long, its schedule stretched over all of it.

        Raises KdbenchError where that is no whole number of epochs or steps.
        """
        unit = "epochs" if self.steps is None else "steps"
        longer = budget * getattr(self, unit)
        if round(longer) < 1 or abs(longer - round(longer)) > 1e-6:
            raise KdbenchError(
                f"{budget:g} times the {getattr(self, unit)} {unit} of recipe {self.name} is {longer:g}, "
                f"no whole number of {unit}"
            )
        warmup = self.warmup_epochs and self.warmup_epochs * budget
        return replace(self, **{unit: round(longer)}, warmup_epochs=warmup)


@dataclass(frozen=True)
class ModelSpec:
    """One network. `timm` is a registered timm name (resnet18), one of timm's classes (ResNet, MlpMixer), or one of the
    networks that timm lacks (cifar_resnet8x4; kdbench/train/cifar_networks.py, mnist_networks.py, text_networks.py).

    Its weights come from the seed. Those of a teacher may be given instead, by `pretrained` or by `weights`; it is then
    fine-tuned by its recipe or, without one, taken as it is."""

    name: str
    timm: str
    data: str
    """Name of the data set that it reads."""
    recipe: str | None = None
    """Name of the recipe that trains it, as a teacher or as a student; None: a teacher that is taken as it is."""
    input: str = "image"
    """Name of the modality of the data set that it reads."""
    args: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the timm model, of `huggingface` the encoder's `name` and `revision`; `num_classes`,
    `in_chans` and `img_size` come from the data."""
    family: str | None = None
    """`cnn`, `vit` or `mlp`; by default read off the timm module."""
    stem: str = "timm"
    """`small`: replace a ResNet stem by a 3x3 stride-1 convolution without max-pooling, for inputs up to 64 px. It has
    `stem_width` channels where `args` give it (timm itself reads that for deep stems only), else timm's 64."""
    pos_std: float | None = None
    """Standard deviation of the position embedding at the start (timm: 0.02, too small on tiny inputs)."""
    eval_crop: float | None = None
    """Of pictures that are enlarged or decoded on their way: the share of the resized shorter side that it sees when it
    is evaluated. By default what timm says of the network, else 0.875."""
    eval_interpolation: Literal["bilinear", "bicubic"] | None = None
    """How they are resized for that. By default what timm says of the network, else bicubic."""
    normalisation: Literal["data", "timm"] = "data"
    """By whose mean and deviation the pixels that it reads are normalised: those of the training images, or those that
    timm's configuration of the network names, ImageNet's where it names none. A suite that does not say means `timm`
    for a teacher whose weights are timm's and taken as they are, since its accuracy was measured so."""
    pretrained: bool = False
    """Start from timm's weights for the tag in `timm` (resnet18.a1_in1k)."""
    weights: str | None = None
    """Start from the weights in this file: a path, or a URL."""
    sha256: str | None = None
    """Of that file: what its results are known by. Must be given for a URL."""
    accuracy: float | None = None
    """Test accuracy (percent) that a teacher with given weights must show before any student learns from it."""
    tolerance: float = 0.5
    """Points by which the accuracy found may differ from that."""

    @property
    def is_given(self) -> bool:
        """Whether its weights come from elsewhere than from the seed."""
        return self.pretrained or self.weights is not None


Guide = Literal["trained", "untrained", "shuffled"]
"""Whose signals a student gets: those of the trained teacher, those of the same network with its initial weights, or
those of the trained teacher for other samples of the batch."""


@dataclass(frozen=True)
class MethodSpec:
    """One row of a table: a method with its parameters. `params` holds every parameter, defaults filled in."""

    id: str
    method: str
    params: dict[str, Any]
    label: str
    """As a person reads it, with the mark (dagger, double dagger) of a reconstructed method."""
    group: str
    """The heading under which tables list it."""
    footnote: str | None = None
    tuned_from: str | None = None
    """Id of the method whose twin this is: the same, but for its main weight, which the suite's tuning chooses. The
    choice is that of its `stream`, so that a control gets the weight of its method."""
    variant_of: str | None = None
    """Id of the method of which this is a reading, a setting of its weight, the tuned twin, or a control. It draws the
    same random numbers, so that what differs is the variant's doing."""
    guide: Guide = "trained"
    """Whose signals it gets: those of the trained teacher, or a control (kdbench/train/cohort.py)."""
    compute_of: MethodSpec | None = None
    """The method whose operations it trains with (kdbench/train/equal_compute.py)."""
    short: str = ""
    """The label of figures, where room is scarce; the label itself where empty."""
    harness: str | None = None
    """The code base that its weights come from; None for what has no teacher, and where the suite's tuning chose."""
    tune: bool = True
    """Whether a suite that tunes chooses its main weight; else it keeps the weight that it has, in every block."""

    @property
    def stream(self) -> str:
        """Name of the random numbers it draws (projectors, dropout, negatives)."""
        return self.variant_of or self.id

    @property
    def needs_teacher(self) -> bool:
        return self.params.get("teacher", True) is not False

    @property
    def belongs_to_pair(self) -> bool:
        """Whether its numbers depend on the teacher; else it is trained once a student, for all of its pairs."""
        return (self.compute_of or self).needs_teacher


@dataclass(frozen=True)
class Pair:
    """A teacher and a student, named by their models; `teacher` is None for what is trained without one."""

    teacher: str | None
    student: str

    @property
    def id(self) -> str:
        return f"{self.teacher or 'none'}--{self.student}"


@dataclass(frozen=True)
class Block:
    """One table of a suite: methods (rows) against pairs (columns) over one data set."""

    name: str
    title: str
    data: str
    pairs: tuple[Pair, ...]
    methods: tuple[MethodSpec, ...]
    seeds: tuple[int, ...]
    """The suite's, or some of them."""
    budgets: tuple[float, ...] = (1,)
    """Multiples of the steps or epochs of each student's recipe: all of this is trained once for each."""
    budget: float = 1
    """The one of them that tables, figures and similarities show."""
    scratch_budgets: tuple[float, ...] = ()
    """Further budgets at which Scratch alone is trained: how far a student gets with more compute and no teacher."""
    readings: tuple[tuple[MethodSpec, tuple[MethodSpec, ...]], ...] = ()
    """Reconstructed methods with all their readings, of which the table shows the range."""
    baselines: tuple[str, ...] = ("scratch", "kd", "kd-tuned")
    """Methods that the table holds the others against, where it has them; the first leads."""
    rows: tuple[str, ...] = ()
    """Ids of the methods that the table shows; all where empty."""
    columns: tuple[str, ...] = ()
    """Ids of the pairs that the table shows; all where empty."""
    weights: Literal["tuned", "default", "both"] = "both"
    """Of a method that tuning gives a twin: train the twin alone, the method with its own weight alone, or both."""
    layout: Literal["pairs", "methods"] = "pairs"
    """What is a row of the tables: a pair, as papers print them, or a method, for many methods on few pairs."""
    also: tuple[str, ...] = ()
    """What further tables show, read off the test predictions: `agreement` with the teacher where it is right and where
    it is wrong, `ece` (calibration)."""

    @property
    def trained(self) -> tuple[MethodSpec, ...]:
        """All that is trained for this table: its rows and the readings."""
        return self.methods + tuple(reading for _, readings in self.readings for reading in readings)

    @property
    def lengths(self) -> dict[float, tuple[MethodSpec, ...]]:
        """Budget -> what is trained at it."""
        alone = tuple(m for m in self.methods if m.id == "scratch")
        return {**dict.fromkeys(self.budgets, self.trained), **dict.fromkeys(self.scratch_budgets, alone)}

    def row_of(self, method: str) -> str:
        """The id under which a method stands in this block: its own, or its twin's where only that is trained."""
        twins = {m.tuned_from: m.id for m in self.methods}
        return method if any(m.id == method for m in self.methods) else twins.get(method, method)

    @property
    def shown(self) -> Block:
        """The block cut down to the rows and columns of its table."""
        methods = tuple(m for m in self.methods if not self.rows or m.id in self.rows)
        pairs = tuple(p for p in self.pairs if not self.columns or p.id in self.columns)
        return replace(self, methods=methods, pairs=pairs)


@dataclass(frozen=True)
class Tune:
    """Equal tuning: every method tries its main weight times each factor, once a student family."""

    seeds: tuple[int, ...]
    """Outside the reported seeds; train teachers of their own. A setting is judged by its mean over them."""
    pairs: tuple[Pair, ...]
    """Where settings are judged, on validation: one pair a student family."""
    factors: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0)
    budget: float = 1
    """Multiple of the steps or epochs of a student's recipe that each setting is tried for. One for the whole suite,
    since a tuned method has one weight; where a suite does not say, the largest that a block with these pairs shows."""
    temperatures: tuple[float, ...] = ()
    """Tried with each factor by methods whose file names a TUNE_TEMPERATURE; none: these keep their own."""


@dataclass(frozen=True)
class Claim:
    """A method held against its control, in every block that has both."""

    name: str
    method: str
    control: str
    """The same without what the claim is about."""
    question: str
    """Which a difference between the two answers, and which goes before that answer."""
    margin: float | None = None
    """Points that a difference must exceed to count, fixed before any run; the claim is then decided (stats.decision),
    over all pairs of a direction, be they headline pairs or not."""


@dataclass(frozen=True)
class Paper:
    """What the LaTeX fragments of a suite show, and under which names. It hides and renames; it changes no number."""

    rows: tuple[str, ...] = ()
    """Ids of the methods that they show; all where empty."""
    columns: tuple[str, ...] = ()
    """Ids of the pairs that they show; all where empty."""
    names: dict[str, str] = field(default_factory=dict)
    """Method or model -> its name in the paper."""
    width: float = 6.75
    """Inches: 6.75 for a whole page, 3.25 for one of two columns."""


@dataclass(frozen=True, eq=False)
class Suite:
    """A checked YAML file: every name in it exists and every value has been looked at (kdbench/plan/suite.py)."""

    name: str
    blocks: tuple[Block, ...]
    seeds: tuple[int, ...]
    data: dict[str, DataSpec]
    recipes: dict[str, Recipe]
    models: dict[str, ModelSpec]
    title: str = ""
    edition: int = 1
    """Raised where a suite becomes another benchmark under its old name. Part of what a run is, so that results of two
    editions never meet in one table."""
    banner: str = ""
    """A warning printed above every table of the suite."""
    precision: str = "fp32"
    """`fp32`, or `bf16` (autocast)."""
    device: str = "auto"
    """`auto` (CUDA where there is one), `cpu` or `cuda`."""
    threads: int = 1
    """Threads a training job computes with; part of what a run is, since one and two threads differ in the last bit."""
    workers: int = 2
    """Processes beside a training job that decode its pictures, where these are stored as JPEG; 0: the job does it
    itself. Results do not depend on it."""
    seeds_per_job: int = 1
    methods_per_job: int | None = None
    """None: all methods of a pair share one process."""
    checkpoint_seconds: float = 60.0
    memory_mb: int = 4000
    """What a cluster profile asks for, a job, until jobs like it have been measured on a CPU."""
    minutes_per_job: int = 60
    """What a cluster profile asks for, a job, until jobs like it have been measured."""
    jobs_per_gpu: int = 1
    """Training jobs that may share a card of a machine on which no scheduler hands out cards."""
    one_teacher: bool = False
    """Whether the first seed's teachers teach in all seeds, so that intervals hold the spread of students alone."""
    proxy_for: str | None = None
    """The suite that this one is a cheap stand-in for; the page of findings says how well it is."""
    tune: Tune | None = None
    claims: tuple[Claim, ...] = ()
    paper: Paper = Paper()
    path: Path | None = None
    """The file that it was read from."""
    extends: Path | None = None
    """The file that gave it the sections that its own leaves out."""


# ------------------------------------------------------------------------------------------- what networks tell methods


@dataclass(frozen=True)
class Side:
    """Probed facts of one network on one data set; shapes without the batch axis."""

    family: str
    """`cnn`, `vit` or `mlp`."""
    stages: tuple[tuple[int, int, int], ...]
    """(C, H, W) of the four stages; empty where the network has fewer than four."""
    prefix: int
    """Number of prefix tokens (class token, registers)."""
    pooled: int
    """Width of the pooled vector that the classifier reads."""
    pooled_preact: int
    """Width of the pooled vector before the last activation."""


@dataclass(frozen=True)
class PairShapes:
    """What a distiller may know of its pair when it is built. `teacher` is None where there is none."""

    student: Side
    teacher: Side | None
    classes: int
    train_labels: tuple[int, ...]
    """Classes of the training samples in their own order (memory banks, negatives of other classes)."""

    @property
    def train_size(self) -> int:
        return len(self.train_labels)


@dataclass
class Signals:
    """What one forward pass of one network shows. Only what somebody `needs` is filled in; the rest is None."""

    logits: Tensor
    """(B, classes)"""
    stages: tuple[Tensor, ...] | None = None
    """Four maps (B, C_i, H_i, W_i), before the final norm, without prefix tokens."""
    prefix: tuple[Tensor, ...] | None = None
    """Prefix tokens of the same four stages, each (B, P, C_i); P = 0 where there are none."""
    pooled: Tensor | None = None
    """(B, D), what the classifier reads."""
    pooled_preact: Tensor | None = None
    """(B, D), pooled before the last activation; equal to `pooled` for networks that do not end in one."""
    index: Tensor | None = None
    """(B,) int64, positions of the samples in the training set."""
    inputs: Tensor | None = None
    """(B, C, H, W), or tokens (B, 1, 1, L): what the network was given."""
