"""Networks that read the tokens of texts, which timm lacks: a transformer encoder from scratch.

Tokens are int32 (B, 1, 1, L), padded with 0 at their end; `in_chans`, for other networks the channels of an image, is
the size of the vocabulary. A text is shown to methods as a map of height 1, (B, C, 1, L), as pen outlines are. Padding
has no influence: no token attends to it, the pooled feature leaves it out, and cells of it are 0 in the maps.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

LONGEST = 512
"""Tokens of a text at most, as BERT has it: so many positions are learned."""
PADDING = 0


class TextTransformer(nn.Module):
    """Embedding, learned positions, blocks with their norms first, a norm, the mean over tokens; with the names timm
    gives to these. Dropout of 0.1 as in BERT, on embeddings, attention and MLPs; weights start as in BERT."""

    reads_tokens = True

    def __init__(self, width: int, depth: int, heads: int, num_classes: int, in_chans: int) -> None:
        from timm.models.vision_transformer import Block  # here, since it takes seconds

        super().__init__()
        self.embedding = nn.Embedding(in_chans, width)
        self.pos_embed = nn.Parameter(torch.empty(1, LONGEST, width))
        self.drop = nn.Dropout(0.1)
        self.blocks = nn.ModuleList(
            Block(width, heads, qkv_bias=True, proj_drop=0.1, attn_drop=0.1) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        self.fc = nn.Linear(width, num_classes)
        self.num_classes = num_classes
        self.feature_info = [{"reduction": 1}] * depth
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def no_weight_decay(self) -> set[str]:
        return {"pos_embed"}

    def forward_intermediates(
        self, x: Tensor, indices: Sequence[int], output_fmt: str = "NCHW"
    ) -> tuple[Tensor, list[Tensor]]:
        """Tokens (B, 1, 1, L) -> the pooled feature (B, C), and maps (B, C, 1, L) of the blocks `indices`."""
        tokens = x.flatten(1)
        known = tokens != PADDING
        # A number and not minus infinity, which makes nan of a text without any token.
        mask = torch.zeros(known.shape, device=x.device).masked_fill(~known, -1e9)[:, None, None]
        shown = known[:, :, None]
        y = self.drop(self.embedding(tokens) + self.pos_embed[:, : tokens.shape[1]])
        maps = []
        for number, block in enumerate(self.blocks):
            y = block(y, attn_mask=mask)
            if number in indices:
                maps.append((y * shown).transpose(1, 2).unsqueeze(2))
        pooled = (self.norm(y) * shown).sum(dim=1) / shown.sum(dim=1).clamp(min=1)
        return pooled, maps

    def forward_features(self, x: Tensor) -> Tensor:
        return self.forward_intermediates(x, ())[0]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """The pooled feature (B, C) -> logits (B, classes), or itself."""
        return x if pre_logits else self.fc(x)

    def get_classifier(self) -> nn.Linear:
        return self.fc

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


NETWORKS = {
    # The sizes of BERT-mini (Turc et al., arXiv 1908.08962).
    "text_transformer_mini": partial(TextTransformer, 256, 4, 4),
}
"""Name in a suite -> function of `num_classes` and `in_chans`. kdbench/plan/keys.py reads the keys from this source."""
