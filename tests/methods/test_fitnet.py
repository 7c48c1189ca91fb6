"""FitNet: its loss, and projectors between any two grids."""

import numpy as np
import pytest
import torch
from builders import CLASSES, SIDES, build, terms

from kdbench.methods import fitnet
from kdbench.types import PairShapes


def test_fitnet_loss_is_the_mean_square():
    s, t = np.random.default_rng(0).normal(size=(2, 3, 2, 4, 4))
    assert fitnet.fitnet_loss(torch.from_numpy(s), torch.from_numpy(t)).item() == pytest.approx(((s - t) ** 2).mean())
    assert fitnet.fitnet_loss(torch.from_numpy(t), torch.from_numpy(t)) == 0


@pytest.mark.parametrize("tokens", [True, False])
@pytest.mark.parametrize(
    ("own", "wanted", "exact"),
    [
        ((64, 56, 56), (48, 14, 14), True),
        ((32, 7, 7), (48, 14, 14), True),
        ((8, 14, 14), (6, 14, 14), True),
        ((8, 16, 16), (6, 7, 7), False),
        ((8, 7, 7), (6, 8, 8), False),
        ((8, 15, 15), (6, 8, 8), False),
        ((8, 1, 65), (6, 8, 8), False),
        ((8, 8, 8), (6, 1, 65), False),
        ((8, 1, 64), (6, 8, 8), True),
    ],
)
def test_projector_serves_any_two_grids(own, wanted, exact, tokens):
    projector = fitnet.Projector(own, wanted, tokens, bias=True)
    assert projector(torch.randn(2, *own)).shape == (2, *wanted)
    assert projector.exact is exact


def test_projector_of_a_coarser_student_unfolds_cells_in_space():
    projector = fitnet.Projector((1, 2, 2), (1, 4, 4), tokens=False, bias=False)
    with torch.no_grad():
        projector.convolution.weight.copy_(torch.arange(4.0).view(4, 1, 1, 1))
        out = projector(torch.tensor([[[[0.0, 10], [0, 0]]]]))
    assert out[0, 0].tolist() == [[0, 0, 0, 10], [0, 0, 20, 30], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_projector_of_finer_tokens_is_merging_and_a_linear():
    projector = fitnet.Projector((3, 4, 4), (5, 2, 2), tokens=True, bias=True)
    maps = torch.randn(2, 3, 4, 4)
    merged = maps.unflatten(3, (2, 2)).unflatten(2, (2, 2)).permute(0, 2, 4, 1, 3, 5).flatten(3)
    linear = merged @ projector.convolution.weight.flatten(1).T + projector.convolution.bias
    torch.testing.assert_close(projector(maps), linear.permute(0, 3, 1, 2))


def test_fitnet_projectors_have_a_bias_but_between_cnns():
    assert all(p.convolution.bias is None for p in build("fitnet", {}, "cnn", "cnn").projectors.values())
    assert all(p.convolution.bias is not None for p in build("fitnet", {}, "cnn", "vit").projectors.values())
    assert build("fitnet", {}, "cnn", "cnn").notes() == []
    assert "at stage 1, 2, 3, 4" in build("fitnet", {}, "mlp", "vit").notes()[0]


def test_the_hint_regressor_is_mdistillers_or_a_reason():
    layers = [fitnet.regressor((8, n, n), (6, 8, 8))[0] for n in (16, 4, 10)]
    assert [(type(layer).__name__, layer.kernel_size[0]) for layer in layers] == [
        ("Conv2d", 3),
        ("ConvTranspose2d", 4),
        ("Conv2d", 3),
    ]
    pair = PairShapes(SIDES["mlp"], SIDES["cnn"], CLASSES, (0, 1))
    assert "no form from 7x7 to 8x8" in fitnet.Method.supports(fitnet.Params(variant="hint"), pair)


def test_fitnet_terms():
    once, thrice = terms("fitnet", teacher="cnn"), terms("fitnet", teacher="cnn", weight=3.0)
    assert set(once) == {"ce", "fitnet"}
    assert thrice["fitnet"].item() == pytest.approx(3 * once["fitnet"].item())
