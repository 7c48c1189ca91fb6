"""The networks of the first published numbers of distillation, which timm lacks: ReLU layers on MNIST's pixels.

Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", arXiv 1503.02531, section 3: a large net with two
hidden layers of 1200 units and dropout, a small one with two of 800 and none. Rates of dropout are those of the work
that the paper names for them, Hinton et al., arXiv 1207.0580: 0.2 of the pixels and 0.5 of the hidden units.

Departures: inputs are normalised, so a dropped pixel gets the mean grey of the data and not black; and the large net
has no limit on the length of a unit's incoming weights, which kdbench does not have. Weights start as torch starts
them.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

SIDE = 28


class PixelMlp(nn.Module):
    """Two hidden layers of ReLUs and a classifier, with the names timm gives to these. It has no maps to show."""

    def __init__(self, width: int, drop_pixels: float, drop_units: float, num_classes: int, in_chans: int) -> None:
        """width: units of a hidden layer. drop_pixels, drop_units: shares of pixels and hidden units dropped."""
        super().__init__()
        self.hidden = nn.Sequential(
            nn.Flatten(),
            nn.Dropout(drop_pixels),
            nn.Linear(in_chans * SIDE**2, width),
            nn.ReLU(),
            nn.Dropout(drop_units),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Dropout(drop_units),
        )
        self.fc = nn.Linear(width, num_classes)
        self.num_classes = num_classes
        self.feature_info: list[dict[str, int]] = []

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (B, C, 28, 28) -> the last hidden layer (B, width)."""
        return self.hidden(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """The last hidden layer (B, width) -> logits (B, classes), or itself."""
        return x if pre_logits else self.fc(x)

    def get_classifier(self) -> nn.Linear:
        return self.fc

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


NETWORKS = {
    "mnist_mlp_1200": partial(PixelMlp, 1200, 0.2, 0.5),
    "mnist_mlp_800": partial(PixelMlp, 800, 0.0, 0.0),
}
"""Name in a suite -> function of `num_classes` and `in_chans`. kdbench/plan/keys.py reads the keys from this source."""
