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

import inspect
import math
from typing import Any

import torch
from torch import Tensor, nn

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
    """Reads Signals off one network. Building one probes the network; `side` holds what was found."""

    def __init__(
        self, model: nn.Module, shape: tuple[int, int, int], family: str, needs: frozenset[str] = EVERYTHING
    ) -> None:
        """model: a network on the CPU, which may move to another device afterwards; its weights, its statistics and the
        global RNG stay as they were. shape: (H, W, C) of one input. needs: fields of Signals."""
        self.model = model
        self.needs = needs
        self._stages = stage_indices(model)
        self._prefix = bool(getattr(model, "num_prefix_tokens", 0)) and _takes_prefix(model)
        self._preact: Tensor | None = None
        self._read: list[Tensor] = []
        hooks = [c.register_forward_pre_hook(self._keep_read) for c in classifiers(model)]
        self.side, last_activation = self._probe(shape, family)
        if not needs & {"stages", "prefix"}:
            self._stages = []
        if not needs & {"pooled", "pooled_preact"}:
            for hook in hooks:
                hook.remove()
        if last_activation and "pooled_preact" in needs:
            model.get_submodule(last_activation).register_forward_pre_hook(self._keep_preact)

    def __call__(self, x: Tensor, index: Tensor | None = None) -> Signals:
        """x: (B, C, H, W). index: (B,) positions in the training set, passed on."""
        model, x = self.model, planar(x)
        inputs = x if "inputs" in self.needs else None
        stages = prefix = pooled = None
        self._read = []
        if self._stages:
            extra = {"return_prefix_tokens": True} if self._prefix else {}
            final, maps = model.forward_intermediates(x, indices=self._stages, output_fmt="NCHW", **extra)
            if _after_head_convolution(final, maps[-1]):
                maps = [*maps[:-1], final]
            stages = tuple(planar(m[0] if self._prefix else m) for m in maps)
            prefix = tuple(m[1] if self._prefix else m.new_zeros(len(m), 0, m.shape[1]) for m in maps)
        else:
            final = model.forward_features(x)
        logits = _one_head(model.forward_head(final))
        read, self._read = self._read, []
        if read:
            # Where two heads read a token each, what they read is averaged as their logits are.
            pooled = read[0] if len(read) == 1 else sum(read) / len(read)
        preact, self._preact = self._preact, None
        preact = pooled if preact is None else preact
        return Signals(logits, stages, prefix, pooled, preact, index, inputs)

    @torch.no_grad()
    def _probe(self, shape: tuple[int, int, int], family: str) -> tuple[Side, str | None]:
        """The Side of the network, and the name of the activation that its last map leaves, if any: from a fixed input
        in evaluation mode."""
        height, width, channels = shape
        x = torch.linspace(-1, 1, 2 * channels * height * width).view(2, channels, height, width)
        called: list[tuple[str, Tensor]] = []
        hooks = [
            module.register_forward_hook(lambda m, i, out, name=name: called.append((name, out)))
            for name, module in self.model.named_modules()
            if isinstance(module, _ACTIVATIONS) or type(module).__module__ == "timm.layers.activations"
        ]
        was_training = self.model.training
        self.model.eval()
        final = self.model.forward_features(x)
        for hook in hooks:
            hook.remove()
        signals = self(x)
        self.model.train(was_training)
        name, out = called[-1] if called else (None, None)
        ends_in_activation = out is not None and out.ndim == 4 and out.shape == final.shape and torch.equal(out, final)
        last_activation = name if ends_in_activation else None
        side = Side(
            family=family,
            stages=tuple(tuple(m.shape[1:]) for m in signals.stages or ()),
            prefix=signals.prefix[0].shape[1] if signals.prefix else 0,
            pooled=signals.pooled.shape[1],
            pooled_preact=final.shape[1] if last_activation else signals.pooled.shape[1],
        )
        return side, last_activation

    def _keep_preact(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        # Pooled at once: the activation may work in place.
        self._preact = _one_vector(inputs[0])

    def _keep_read(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._read.append(_one_vector(inputs[0]))


def read_logits(model: nn.Module, x: Tensor) -> Tensor:
    """(B, classes) of x (B, C, H, W): the logits that a Reader shows, without building one."""
    return _one_head(model.forward_head(model.forward_features(planar(x))))


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


def _one_vector(x: Tensor) -> Tensor:
    """(B, D) of what a layer reads: as it is, or averaged over tokens (B, N, D) or cells (B, D, H, W)."""
    return x if x.ndim == 2 else x.mean(dim=1 if x.ndim == 3 else (2, 3))


def _one_head(logits: Tensor | tuple[Tensor, Tensor]) -> Tensor:
    """A distilled DeiT has two heads; they are averaged, in training as in evaluation."""
    return logits if isinstance(logits, Tensor) else (logits[0] + logits[1]) / 2


def _takes_prefix(model: nn.Module) -> bool:
    return "return_prefix_tokens" in inspect.signature(model.forward_intermediates).parameters
