"""Names -> networks: timm's, and those of kdbench/networks.py. Shapes are probed, never written down."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import nn

import kdbench.torchvision_ops  # noqa: F401
from kdbench.batches import stream
from kdbench.networks import NETWORKS
from kdbench.types import KdbenchError, ModelSpec


def build(spec: ModelSpec, shape: tuple[int, int, int], classes: int, seed: int) -> nn.Module:
    """A freshly initialised network.

    spec: what the suite says. shape: (H, W, C) of one input as the data set packs it. The weights depend on
    (seed, spec.name) alone, so every method of a pair starts from the same ones; torch's global RNG is left as it was.

    Raises KdbenchError when timm refuses the arguments.
    """
    import timm

    # On a CPU the fused kernel makes small ViTs slower: 418 against 1,108 images/s (width 32, 64 tokens, bf16).
    timm.layers.set_fused_attn(torch.cuda.is_available())
    height, width, channels = shape
    args: dict[str, Any] = {**spec.args, "num_classes": classes, "in_chans": channels}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(stream(seed, "weights", spec.name))  # of the CPU, not of a GPU too
        try:
            if spec.timm in NETWORKS:
                model = NETWORKS[spec.timm](num_classes=classes, in_chans=channels)
            elif timm.is_model(spec.timm):
                if timm.get_pretrained_cfg(spec.timm).fixed_input_size:
                    args["img_size"] = (height, width)
                model = timm.create_model(spec.timm, **args)
            else:
                model = _from_class(spec.timm, args, (height, width))
        except (TypeError, ValueError, AssertionError, RuntimeError) as error:
            raise KdbenchError(
                f"models.{spec.name}: timm cannot build {spec.timm} with {spec.args}: {error}"
            ) from error
        if spec.stem == "small":
            _small_stem(model, spec)
        if spec.pos_std is not None:
            if getattr(model, "pos_embed", None) is None:
                raise KdbenchError(f"models.{spec.name}: pos_std is set, but {spec.timm} has no position embedding")
            nn.init.normal_(model.pos_embed, std=spec.pos_std)
    return model


def _from_class(name: str, args: dict[str, Any], size: tuple[int, int]) -> nn.Module:
    """One of timm's classes by its name; a string among the arguments may name a class of the same module."""
    from kdbench.suite import timm_arguments, timm_index

    module_name = timm_index()[1][name]
    module = importlib.import_module(f"timm.models.{module_name}")
    if "img_size" in timm_arguments(module_name, name):
        args["img_size"] = size
    classes = {k: v for k, v in vars(module).items() if isinstance(v, type) and issubclass(v, nn.Module)}
    return getattr(module, name)(**{k: classes.get(v, v) if isinstance(v, str) else v for k, v in args.items()})


def _small_stem(model: nn.Module, spec: ModelSpec) -> None:
    if not isinstance(getattr(model, "conv1", None), nn.Conv2d) or not hasattr(model, "maxpool"):
        raise KdbenchError(f"models.{spec.name}: stem: small is for timm's ResNet; {spec.timm} has another stem")
    old = model.conv1
    width = spec.args.get("stem_width", old.out_channels)
    model.conv1 = nn.Conv2d(old.in_channels, width, 3, stride=1, padding=1, bias=False)
    model.bn1 = type(model.bn1)(width)
    model.maxpool = nn.Identity()
    first = model.layer1[0]
    first.conv1 = _with_inputs(first.conv1, width)
    if first.downsample is not None:
        first.downsample = nn.Sequential(
            *(_with_inputs(m, width) if isinstance(m, nn.Conv2d) else m for m in first.downsample)
        )
    for conv in (m for m in (model.conv1, *first.modules()) if isinstance(m, nn.Conv2d)):
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")


def _with_inputs(conv: nn.Conv2d, channels: int) -> nn.Conv2d:
    """The same convolution for another number of input channels, freshly initialised."""
    return nn.Conv2d(channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, bias=False)


def parameter_count(module: nn.Module, trained_only: bool = False) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trained_only)
