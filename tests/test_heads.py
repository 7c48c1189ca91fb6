"""Logits come by one way, whatever stands between a network's pooled vector and its classifier."""

from __future__ import annotations

import pytest
import torch
from packaging.version import Version

from kdbench.signals import Reader
from kdbench.train import networks
from kdbench.types import ModelSpec

# isort: split
import timm

# A small one of each timm module; the odd ones have a norm, a second head or a convolution before or as their last
# layer, or take their pooled vector in another way than the others.
ODD = [
    "volo_d1_224",
    "efficientvit_m0",
    "shvit_s1",
    "levit_128s",
    "resnetv2_50",
    "dpn48b",
    "dla46_c",
    "deit_tiny_distilled_patch16_224",
]
PLAIN = [
    "resnet18",
    "vit_tiny_patch16_224",
    "eva02_tiny_patch14_224",
    "cait_xxs24_224",
    "pvt_v2_b0",
    "mixer_s32_224",
    "resmlp_12_224",
    "gmlp_ti16_224",
    "convnext_atto",
    "convnextv2_atto",
    "mobilenetv2_050",
    "mobilenetv3_small_050",
    "efficientnet_b0",
    "regnetx_002",
    "ghostnet_050",
    "repvgg_a0",
    "mobileone_s0",
    "fastvit_t8",
    "edgenext_xx_small",
    "mobilevit_xxs",
    "xcit_nano_12_p16_224",
    "pit_ti_224",
    "pit_ti_distilled_224",
    "levit_conv_128s",
    "repvit_m0_9",
    "rexnet_100",
    "hardcorenas_a",
    "visformer_tiny",
    "starnet_s1",
    "efficientformer_l1",
    "efficientformerv2_s0",
    "skresnet18",
    "sequencer2d_s",
    "tiny_vit_5m_224",
    "poolformer_s12",
]
LATE = {"efficientvit_m0", "dpn48b", "dla46_c"}
LARGE = {"volo_d1_224", "resnetv2_50"}
"""Of the odd ones; they are slow tests, as plain ones are."""


def network(name: str, **args) -> torch.nn.Module:
    spec = ModelSpec("m", name, "d", "r", args=args, family="cnn")
    return networks.build(spec, (224, 224, 3), 7, 0)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name in {*PLAIN, *LARGE} else ()) for name in (*ODD, *PLAIN)],
)
def test_training_and_evaluation_are_of_one_network(name):
    if name in LATE and Version(timm.__version__) < Version("1.0.31"):
        pytest.skip("this timm cannot hand out its maps")
    model = network(name)
    x = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    full = Reader(model, (224, 224, 3), "cnn")
    logits_only, side = Reader(model, (224, 224, 3), "cnn", frozenset({"logits"})), full.side
    with torch.no_grad():
        model.eval()
        signals = full(x)
        assert torch.equal(signals.logits, model(x)) and torch.equal(signals.logits, logits_only(x).logits)
        assert signals.pooled.shape == (2, side.pooled) and signals.pooled_preact.shape == (2, side.pooled_preact)
        model.train()
        state = {k: v.clone() for k, v in model.state_dict().items()}
        both = []
        for reader in (full, logits_only):
            model.load_state_dict(state)
            torch.manual_seed(0)
            both.append(reader(x).logits)
        assert both[0].shape == (2, 7) and torch.equal(*both)


def test_the_pooled_vector_is_what_the_classifier_read_dropout_included():
    """Dropout before the classifier is drawn once: methods see the very vector that the logits came from."""
    model = network("resnet18", drop_rate=0.5).train()
    signals = Reader(model, (224, 224, 3), "cnn")(torch.randn(4, 3, 224, 224))
    assert 0.3 < (signals.pooled == 0).float().mean() < 0.7
    assert torch.equal(model.fc(signals.pooled), signals.logits)
