"""Signals of any network, its stages given by the names of submodules."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from kdbench.errors import unknown
from kdbench.signals import EVERYTHING, Reader, activations, hooked, one_vector
from kdbench.tensors import planar
from kdbench.types import KdbenchError


class NamedReader(Reader):
    """Reads Signals off a network, timm's or not.

    A stage gives maps (B, C, H, W) or (B, H, W, C), or tokens (B, N, C) that fill a grid like the input's, behind as
    many prefix tokens as the network's `num_prefix_tokens` says; where it does not say, behind none or one, whichever
    leaves a grid. The classifier is the last Linear or convolution to run that is as wide as the logits.
    `pooled_preact` is another vector than `pooled` only where the last activation is a module.
    """

    def __init__(
        self,
        model: nn.Module,
        stages: Sequence[str],
        x: Tensor,
        role: str,
        family: str | None = None,
        needs: frozenset[str] = EVERYTHING,
    ) -> None:
        """model: its weights, statistics and modes stay as they were. stages: names of four submodules, or none. x: a
        few inputs (B, ...) on its device. role: what messages call it. family: by default `cnn` for maps (B, C, H, W),
        else `vit`, since no method tells a ViT from an MLP. needs: fields of Signals.

        Raises KdbenchError for names that are not four submodules, and for a network or a stage that gives something
        else.
        """
        known = dict(model.named_modules())
        for name in stages:
            if name not in known:
                raise unknown("submodule", name, filter(None, known), f"{role}_stages")
        if len(stages) not in (0, 4):
            raise KdbenchError(f"{role}_stages: methods read four stages, and {len(stages)} are named")
        self._role, self._stages, self._channels_last = role, list(stages), False
        self._probe(model, x, family or "cnn", needs)
        if family is None and self._channels_last:
            self.side = replace(self.side, family="vit")

    def _forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...] | None, tuple[Tensor, ...] | None]:
        shown: dict[str, tuple[Any, int]] = {}
        with hooked(self._kept(name, shown) for name in self._stages):
            logits = self._logits(x)
        if not self._stages:
            return logits, None, None
        stages, prefix = zip(*(self._stage(name, x, *shown.get(name, (None, 0))) for name in self._stages), strict=True)
        return logits, stages, prefix

    def _logits(self, x: Tensor) -> Tensor:
        given = self.model(x)
        logits = getattr(given, "logits", given)
        if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(x):
            raise KdbenchError(f"the {self._role} must give logits (B, classes) of {len(x)} inputs, not {_form(given)}")
        return logits

    def _kept(self, name: str, shown: dict[str, tuple[Any, int]]) -> RemovableHandle:
        """A hook that writes down what a submodule gives, and how often that has been changed in place so far."""

        def keep(module: nn.Module, inputs: Any, out: Any) -> None:
            out = out[0] if isinstance(out, tuple) else out
            shown[name] = out, getattr(out, "_version", 0)

        return self.model.get_submodule(name).register_forward_hook(keep)

    def _stage(self, name: str, x: Tensor, out: Any, version: int) -> tuple[Tensor, Tensor]:
        """Maps (B, C, H, W) and prefix tokens (B, P, C) of what a submodule gave for inputs x."""
        where = f"{self._role}_stages: {name!r}"
        if out is None:
            raise KdbenchError(f"{where} does not run in the {self._role}'s forward pass")
        if not isinstance(out, Tensor) or out.ndim not in (3, 4) or x.ndim != 4 or len(out) != len(x):
            raise KdbenchError(
                f"{where} gives {_form(out)}; a stage of {len(x)} images is maps (B, C, H, W) or tokens (B, N, C)"
            )
        if out._version != version:
            raise KdbenchError(f"{where}: what it gives is changed in place by the module after it; name that one")
        size = tuple(x.shape[2:])
        if out.ndim == 4:
            if _alike(out.shape[1:3], size) and not _alike(out.shape[2:], size):
                self._channels_last = True
                out = out.permute(0, 3, 1, 2)
            return planar(out), out.new_zeros(len(out), 0, out.shape[1])
        for prefix in self._prefixes():
            if grid := token_grid(out.shape[1] - prefix, size):
                self._channels_last = True
                return planar(out[:, prefix:].transpose(1, 2).unflatten(2, grid)), out[:, :prefix]
        raise KdbenchError(
            f"{where} gives {out.shape[1]} tokens, which fill no grid like the input's {size[0]} x {size[1]}; say how "
            f"many of them are prefix tokens: {self._role}.num_prefix_tokens = ..."
        )

    def _prefixes(self) -> tuple[int, ...]:
        """Numbers of prefix tokens to try."""
        count = getattr(self.model, "num_prefix_tokens", None)
        return (0, 1) if count is None else (count,)

    def _find(self, x: Tensor) -> tuple[list[nn.Module], nn.Module | None]:
        layers: list[tuple[nn.Module, Tensor]] = []
        active: list[tuple[nn.Module, Tensor]] = []
        wide = [m for m in self.model.modules() if _widths(m)]
        hooks = [m.register_forward_pre_hook(lambda m, i: layers.append((m, i[0]))) for m in wide]
        watched = activations(self.model)
        hooks += [m.register_forward_hook(lambda m, i, out: active.append((m, out))) for m in watched]
        with hooked(hooks):
            classes = self._logits(x).shape[1]
        heads = [one for one in layers if classes in _widths(one[0])]
        if not heads:
            return [], None
        classifier, read = heads[-1]
        activation, maps = active[-1] if active else (None, read)
        pooled = one_vector(read)
        ends_in_activation = (
            maps.ndim == 4 and maps.shape[1] == pooled.shape[1] and torch.allclose(one_vector(maps), pooled)
        )
        return [classifier], activation if ends_in_activation else None


def token_grid(tokens: int, size: tuple[int, int]) -> tuple[int, int] | None:
    """The grid that so many tokens fill, with the proportions of an image of `size` (H, W), or in one row of an image
    of height 1; None where there is none."""
    height, width = size
    rows = 1 if height == 1 else math.isqrt(max(tokens, 0) * height // width)
    fits = rows and tokens > 0 and (width % tokens == 0 if height == 1 else rows * rows * width == tokens * height)
    return (rows, tokens // rows) if fits else None


def _widths(layer: nn.Module) -> list[int]:
    """How many numbers a layer gives, where it says so."""
    return [getattr(layer, name) for name in ("out_features", "out_channels") if hasattr(layer, name)]


def _alike(grid: Sequence[int], size: tuple[int, int]) -> bool:
    """Whether a grid has the proportions of an image."""
    return grid[0] * size[1] == grid[1] * size[0]


def _form(given: Any) -> str:
    return f"a tensor {tuple(given.shape)}" if isinstance(given, Tensor) else f"a {type(given).__name__}"
