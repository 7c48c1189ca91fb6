"""One forward pass of a network -> Signals: the only place that knows how timm hands out its inner maps.

What a network reads and what projectors read of it are laid out here, plane after plane (kdbench/tensors.py). Logits
come from one way, `forward_head`, in training as in evaluation: between the pooled vector and the last Linear a network
may have more (a norm, a second head), and some ask a convolution for their logits.

Stages are the ends of four near-equal groups of blocks for networks of equal blocks (12 blocks: 1, 3, 9 and 11, as in
Hao840/OFAKD f7bb896) and the last four maps for networks that shrink. Where a convolution follows the last block
(MobileNetV2's conv_head), stage 4 is its output, as there: 1280x7x7, not 320x7x7. A network with fewer than four shows
none.
"""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from kdbench.tensors import planar
from kdbench.types import Side, Signals

EVERYTHING = frozenset({"logits", "stages", "prefix", "pooled", "pooled_preact", "inputs"})
"""What a teacher shows, whoever looks on."""
_ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish, nn.Tanh, nn.PReLU)


def stage_indices(model: nn.Module) -> list[int]:
    """Which of the model's intermediate features are its four stages; empty when it has fewer than four."""
    reductions = [info["reduction"] for info in model.feature_info]
    count = len(reductions)
    if count < 4:
        return []
    if len(set(reductions)) > 1:
        return list(range(count - 4, count))
    return [1, 3, 9, 11] if count == 12 else [math.ceil(count * k / 4) - 1 for k in (1, 2, 3, 4)]


class Reader:
    """Reads Signals off one network. Building one probes the network; `side` and `classes` hold what was found.

    Hooks are there while it reads and at no other time, so whoever else runs the network, or copies it, sees none.
    """

    def __init__(
        self, model: nn.Module, shape: tuple[int, int, int], family: str, needs: frozenset[str] = EVERYTHING
    ) -> None:
        """model: a network, which may move to another device afterwards; its weights, its statistics and the global RNG
        stay as they were. shape: (H, W, C) of one input. needs: fields of Signals."""
        self._stages: Sequence[Any] = stage_indices(model)
        self._prefix = bool(getattr(model, "num_prefix_tokens", 0)) and _takes_prefix(model)
        self._probe(model, example(model, shape).to(next(model.parameters()).device), family, needs)

    def __call__(self, x: Tensor, index: Tensor | None = None) -> Signals:
        """x: (B, C, H, W), or tokens (B, 1, 1, L). index: (B,) positions in the training set, passed on."""
        x = planar(x) if x.ndim == 4 else x
        read: list[Tensor] = []
        preact: list[Tensor] = []
        # Pooled at once: an activation may work in place.
        hooks = [m.register_forward_pre_hook(lambda m, i: read.append(one_vector(i[0]))) for m in self._heads]
        if self._activation:
            hooks.append(self._activation.register_forward_pre_hook(lambda m, i: preact.append(one_vector(i[0]))))
        with hooked(hooks):
            logits, stages, prefix = self._forward(x)
        # Where two heads read a token each, what they read is averaged as their logits are.
        pooled = read[0] if len(read) == 1 else sum(read) / len(read) if read else None
        before = preact[-1] if preact else pooled
        return Signals(logits, stages, prefix, pooled, before, index, x if "inputs" in self.needs else None)

    def at(self, weights: Mapping[str, Tensor], x: Tensor) -> Signals:
        """What the network shows of x (B, C, H, W) with these tensors in place of its parameters of the same names,
        which stay as they are. Its buffers are its own: in training mode statistics of BatchNorm move on."""
        named = {f"model.{name}": weight for name, weight in weights.items()}
        return torch.func.functional_call(_Reading(self), named, (x,))

    def _forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...] | None, tuple[Tensor, ...] | None]:
        """Logits, stages and their prefix tokens."""
        model = self.model
        if not self._stages:
            return one_head(model.forward_head(model.forward_features(x))), None, None
        extra = {"return_prefix_tokens": True} if self._prefix else {}
        final, maps = model.forward_intermediates(x, indices=self._stages, output_fmt="NCHW", **extra)
        if _after_head_convolution(final, maps[-1]):
            maps = [*maps[:-1], final]
        stages = tuple(planar(m[0] if self._prefix else m) for m in maps)
        prefix = tuple(m[1] if self._prefix else m.new_zeros(len(m), 0, m.shape[1]) for m in maps)
        return one_head(model.forward_head(final)), stages, prefix

    @torch.no_grad()
    def _probe(self, model: nn.Module, x: Tensor, family: str, needs: frozenset[str]) -> None:
        """Find `side` by reading everything of x (B, C, H, W) in evaluation mode; later only what is needed is read."""
        self.model, self.needs = model, EVERYTHING
        with evaluating(model):
            self._heads, self._activation = self._find(x)
            signals = self(x)
        self.classes = signals.logits.shape[1]
        self.side = Side(
            family=family,
            stages=tuple(tuple(m.shape[1:]) for m in signals.stages or ()),
            prefix=signals.prefix[0].shape[1] if signals.prefix else 0,
            pooled=0 if signals.pooled is None else signals.pooled.shape[1],
            pooled_preact=0 if signals.pooled is None else signals.pooled_preact.shape[1],
        )
        self.needs = needs
        if not needs & {"stages", "prefix"}:
            self._stages = []
        if not needs & {"pooled", "pooled_preact"}:
            self._heads = []
        if "pooled_preact" not in needs:
            self._activation = None

    def _find(self, x: Tensor) -> tuple[list[nn.Module], nn.Module | None]:
        """The layers that give logits, and the activation that the last map leaves, if any."""
        called: list[tuple[nn.Module, Tensor]] = []
        watched = activations(self.model)
        with hooked(m.register_forward_hook(lambda m, i, out: called.append((m, out))) for m in watched):
            final = self.model.forward_features(x)
        module, out = called[-1] if called else (None, None)
        ends_in_activation = out is not None and out.ndim == 4 and out.shape == final.shape and torch.equal(out, final)
        return classifiers(self.model), module if ends_in_activation else None


class _Reading(nn.Module):
    """A reader as a module: torch runs nothing else with other weights."""

    def __init__(self, reader: Reader) -> None:
        super().__init__()
        self.model, self.reader = reader.model, reader

    def forward(self, x: Tensor) -> Signals:
        return self.reader(x)


def example(model: nn.Module, shape: tuple[int, int, int], samples: int = 2) -> Tensor:
    """Some inputs that a network may get of data whose samples are of a shape (H, W, C): images (samples, C, H, W) from
    -1 to 1, or, for a network with `reads_tokens`, tokens (samples, 1, H, W) of C different ones, none of them padding.
    """
    height, width, channels = shape
    if getattr(model, "reads_tokens", False):
        count = torch.arange(samples * height * width, dtype=torch.int32)
        return (1 + count % (channels - 1)).view(samples, 1, height, width)
    return torch.linspace(-1, 1, samples * channels * height * width).view(samples, channels, height, width)


def activations(model: nn.Module) -> list[nn.Module]:
    """Its modules that are activation functions."""
    return [
        module
        for module in model.modules()
        if isinstance(module, _ACTIVATIONS) or type(module).__module__ == "timm.layers.activations"
    ]


@contextlib.contextmanager
def hooked(hooks: Iterable[RemovableHandle]) -> Iterator[None]:
    """Hooks that are gone afterwards."""
    hooks = list(hooks)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """A network in evaluation mode; each of its modules has its own mode back afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def read_logits(model: nn.Module, x: Tensor) -> Tensor:
    """(B, classes) of x (B, C, H, W): the logits that a Reader shows, without building one."""
    return one_head(model.forward_head(model.forward_features(planar(x))))


def _after_head_convolution(final: Any, last: Any) -> bool:
    """Whether a network's last map has other channels, on the same grid, than the end of its last block."""
    if not isinstance(final, Tensor) or not isinstance(last, Tensor):
        return False
    return final.ndim == 4 and final.shape[-2:] == last.shape[-2:] and final.shape[1] != last.shape[1]


def classifiers(model: nn.Module) -> list[nn.Module]:
    """The layers that give logits; what timm calls the classifier may hold a pooling or a norm besides."""
    found = model.get_classifier()
    return [
        module
        for part in (found if isinstance(found, tuple) else (found,))
        for module in part.modules()
        if model.num_classes in (getattr(module, "out_features", None), getattr(module, "out_channels", None))
    ]


def one_vector(x: Tensor) -> Tensor:
    """(B, D) of what a layer reads: as it is, or averaged over tokens (B, N, D) or cells (B, D, H, W)."""
    return x if x.ndim == 2 else x.mean(dim=1 if x.ndim == 3 else (2, 3))


def one_head(logits: Tensor | tuple[Tensor, Tensor]) -> Tensor:
    """A distilled DeiT has two heads; they are averaged, in training as in evaluation."""
    return logits if isinstance(logits, Tensor) else (logits[0] + logits[1]) / 2


def _takes_prefix(model: nn.Module) -> bool:
    return "return_prefix_tokens" in inspect.signature(model.forward_intermediates).parameters
