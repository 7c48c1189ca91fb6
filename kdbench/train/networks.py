"""Names -> networks: timm's, and those that it lacks. Shapes are probed, never written down."""

from __future__ import annotations

import difflib
import functools
import importlib
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    UnsupportedOperatorException,
)

import kdbench.torchvision_ops  # noqa: F401
from kdbench.data.pictures import View
from kdbench.signals import EVERYTHING, Reader, example
from kdbench.train import cifar_networks, mnist_networks, text_networks
from kdbench.train.order import stream
from kdbench.types import KdbenchError, ModelSpec

NETWORKS = cifar_networks.NETWORKS | mnist_networks.NETWORKS | text_networks.NETWORKS
"""Networks that timm lacks: name in a suite -> function of `num_classes` and `in_chans`."""


def build(
    spec: ModelSpec,
    shape: tuple[int, int, int],
    classes: int,
    seed: int,
    pretrained: dict[str, Tensor] | None = None,
) -> nn.Module:
    """A freshly initialised network, or one with timm's weights.

    spec: what the suite says. shape: (H, W, C) of one input as the data set packs it. The weights depend on
    (seed, spec.name) alone, so every method of a pair starts from the same ones; torch's global RNG is left as it was.
    pretrained: timm's weights for the tag in spec.timm, which timm fits to the classes and channels here.

    Raises KdbenchError when timm refuses the arguments.
    """
    import timm

    # On a CPU the fused kernel makes small ViTs slower: 418 against 1,108 images/s (width 32, 64 tokens, bf16).
    timm.layers.set_fused_attn(torch.cuda.is_available())
    height, width, channels = shape
    args: dict[str, Any] = {**spec.args, "num_classes": classes, "in_chans": channels}
    if pretrained is not None:
        args |= {"pretrained": True, "pretrained_cfg_overlay": {"state_dict": pretrained}}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(stream(seed, "weights", spec.name))  # of the CPU, not of a GPU too
        try:
            if spec.timm in NETWORKS:
                model = NETWORKS[spec.timm](**args)
            elif timm.is_model(spec.timm):
                if timm.get_pretrained_cfg(spec.timm).fixed_input_size:
                    args["img_size"] = (height, width)
                model = timm.create_model(spec.timm, **args)
            else:
                model = _from_class(spec, args, (height, width))
        except KdbenchError:
            raise
        except Exception as error:  # timm and torch refuse in many ways
            raise KdbenchError(
                f"models.{spec.name}: timm cannot build {spec.timm} with {spec.args}: {first_line(error)}"
            ) from error
        if spec.stem == "small":
            _small_stem(model, spec)
        if spec.pos_std is not None:
            if getattr(model, "pos_embed", None) is None:
                raise KdbenchError(f"models.{spec.name}: pos_std is set, but {spec.timm} has no position embedding")
            nn.init.normal_(model.pos_embed, std=spec.pos_std)
    return model


def reader(
    spec: ModelSpec,
    shape: tuple[int, int, int],
    classes: int,
    seed: int,
    needs: frozenset[str] = EVERYTHING,
    weights: dict[str, Tensor] | None = None,
) -> Reader:
    """A Reader of a network on the CPU: freshly initialised (`build` says how), or with stored weights.

    Raises KdbenchError when the weights do not fit the network.
    """
    model = build(spec, shape, classes, seed)
    if weights is not None:
        try:
            model.load_state_dict(weights)
        except RuntimeError as error:
            raise KdbenchError(f"the stored weights do not fit the model {spec.name}: {error}") from None
    return Reader(model, shape, spec.family, needs)


@functools.cache
def _timm_view(name: str) -> View:
    """What timm's configuration of a network says, its default weights' where there are several."""
    import timm

    known = timm.get_pretrained_cfg(name) if timm.is_model(name) else timm.models.PretrainedCfg()
    return View(known.crop_pct, known.interpolation, known.mean, known.std)


def view(spec: ModelSpec) -> View:
    """How a network is shown pictures: what the suite says, else timm."""
    usual = _timm_view(spec.timm)
    statistics = (usual.mean, usual.std) if spec.normalisation == "timm" else ()
    return View(spec.eval_crop or usual.crop, spec.eval_interpolation or usual.interpolation, *statistics)


def try_out(spec: ModelSpec, shape: tuple[int, int, int], classes: int, batch_size: int, kind: str = "image") -> None:
    """Build and read a network as training will, so that one which does not fit its data is found before any trains.

    shape: (H, W, C) of one input; kind: of its modality. The pass in training mode, at the whole batch size, is on fake
    tensors: shapes only, no memory. Raises KdbenchError that names the model, what it was given and what torch or timm
    said.
    """
    height, width, channels = shape
    if (spec.timm in text_networks.NETWORKS) != (kind == "tokens"):
        known = f"networks for tokens: {', '.join(text_networks.NETWORKS)}"
        raise KdbenchError(f"models.{spec.name}: {spec.timm} cannot read {spec.input}, whose kind is {kind}; {known}")
    own = view(spec).mean
    if own and len(own) != channels:
        raise KdbenchError(
            f"models.{spec.name}: timm's normalisation is for {len(own)} channels, and its inputs have {channels}; "
            "write normalisation: data"
        )
    model = build(spec, shape, classes, 0).train()
    try:
        read = Reader(model, shape, spec.family)
        with FakeTensorMode(allow_non_fake_inputs=True):
            logits = read(example(model, shape, batch_size)).logits
    except (DataDependentOutputException, DynamicOutputShapeException, UnsupportedOperatorException):
        return  # it asks for values, which fake tensors do not have; its shapes were right up to there
    except Exception as error:
        raise KdbenchError(
            f"models.{spec.name}: {spec.timm} with {spec.args} cannot be trained on inputs of {height}x{width} and "
            f"{channels} channel(s) in batches of {batch_size}: {first_line(error)}"
        ) from error
    if tuple(logits.shape) != (batch_size, classes):
        raise KdbenchError(
            f"models.{spec.name}: {spec.timm} gives logits of shape {list(logits.shape)} for {batch_size} samples of "
            f"{classes} classes"
        )


def first_line(error: Exception) -> str:
    """What it says first; two lines where the first ends in a colon."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return " ".join(line.strip() for line in lines[: 2 if lines[0].endswith(":") else 1])[:300]


def _from_class(spec: ModelSpec, args: dict[str, Any], size: tuple[int, int]) -> nn.Module:
    """One of timm's classes by its name; a string among the arguments may name a class of the same module."""
    from kdbench.plan.timm_names import timm_arguments, timm_index

    module_name = timm_index()[1][spec.timm]
    module = importlib.import_module(f"timm.models.{module_name}")
    if "img_size" in timm_arguments(module_name, spec.timm):
        args["img_size"] = size
    classes = {k: v for k, v in vars(module).items() if isinstance(v, type) and issubclass(v, nn.Module)}
    named = {k: classes.get(v, v) if isinstance(v, str) else v for k, v in args.items()}
    try:
        return getattr(module, spec.timm)(**named)
    except Exception:
        by_lower = {name.lower(): name for name in classes}
        for key, value in named.items():
            near = difflib.get_close_matches(value.lower(), by_lower, n=1, cutoff=0.7) if isinstance(value, str) else ()
            if near:
                raise KdbenchError(
                    f"models.{spec.name}.args.{key}: timm's {module_name} has no class {value!r}; did you mean "
                    f"{by_lower[near[0]]!r}?"
                ) from None
        raise


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
