"""Networks that read the tokens of texts, which timm lacks: a transformer encoder from scratch, and any encoder of
Hugging Face's library by its name (`pip install "kdbench[text]"`).

Tokens are int32 (B, 1, 1, L), padded with 0 at their end; `in_chans`, for other networks the channels of an image, is
how many different ones there are. A text is shown to methods as a map of height 1, (B, C, 1, L), as pen outlines are.
Padding has no influence: no token attends to it, the pooled feature leaves it out, and cells of it are 0 in the maps.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from kdbench.data.tokens import PADDING, library
from kdbench.types import KdbenchError

LONGEST = 512
"""Tokens of a text at most, as BERT has it: so many positions are learned."""


class TextNetwork(nn.Module, ABC):
    """Blocks of equal width, the mean over tokens and a classifier, with the names timm gives to these."""

    reads_tokens = True

    def __init__(self, width: int, depth: int, num_classes: int) -> None:
        super().__init__()
        self.fc = nn.Linear(width, num_classes)
        self.num_classes = num_classes
        self.feature_info = [{"reduction": 1}] * depth

    @abstractmethod
    def encode(self, tokens: Tensor, known: Tensor) -> tuple[Sequence[Tensor], Tensor]:
        """Tokens (B, L), and which of them are none of the padding -> (B, L, C) after each block, and at the end."""

    def forward_intermediates(
        self, x: Tensor, indices: Sequence[int], output_fmt: str = "NCHW"
    ) -> tuple[Tensor, list[Tensor]]:
        """Tokens (B, 1, 1, L) -> the pooled feature (B, C), and maps (B, C, 1, L) of the blocks `indices`."""
        tokens = x.flatten(1)
        known = tokens != PADDING
        blocks, last = self.encode(tokens, known)
        shown = known[:, :, None]
        pooled = (last * shown).sum(dim=1) / shown.sum(dim=1).clamp(min=1)
        return pooled, [(blocks[i] * shown).transpose(1, 2).unsqueeze(2) for i in indices]

    def forward_features(self, x: Tensor) -> Tensor:
        return self.forward_intermediates(x, ())[0]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """The pooled feature (B, C) -> logits (B, classes), or itself."""
        return x if pre_logits else self.fc(x)

    def get_classifier(self) -> nn.Linear:
        return self.fc

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


def start_as_bert(modules: Iterable[nn.Module]) -> None:
    """A normal of standard deviation 0.02, and biases of 0."""
    for module in modules:
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.trunc_normal_(module.weight, std=0.02)


class TextTransformer(TextNetwork):
    """Embedding, learned positions, blocks with their norms first, a norm. Dropout of 0.1 as in BERT, on embeddings,
    attention and MLPs; weights start as in BERT."""

    def __init__(self, width: int, depth: int, heads: int, num_classes: int, in_chans: int) -> None:
        from timm.models.vision_transformer import Block  # here, since it takes seconds

        super().__init__(width, depth, num_classes)
        self.embedding = nn.Embedding(in_chans, width)
        self.pos_embed = nn.Parameter(torch.empty(1, LONGEST, width))
        self.drop = nn.Dropout(0.1)
        self.blocks = nn.ModuleList(
            Block(width, heads, qkv_bias=True, proj_drop=0.1, attn_drop=0.1) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        start_as_bert(self.modules())
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def no_weight_decay(self) -> set[str]:
        return {"pos_embed"}

    def encode(self, tokens: Tensor, known: Tensor) -> tuple[Sequence[Tensor], Tensor]:
        # A number and not minus infinity, which makes nan of a text without any token.
        mask = torch.zeros(known.shape, device=known.device).masked_fill(~known, -1e9)[:, None, None]
        x = self.drop(self.embedding(tokens) + self.pos_embed[:, : tokens.shape[1]])
        found = []
        for block in self.blocks:
            x = block(x, attn_mask=mask)
            found.append(x)
        return found, self.norm(x)


class HuggingFace(TextNetwork):
    """An encoder of Hugging Face's library with its published weights, and a classifier that starts from the seed.

    Its own pooling (BERT's tanh of the first token) is left out. What it takes for a token is that number less one,
    since 0 is padding here.
    """

    def __init__(self, name: str, revision: str | None = None, *, num_classes: int, in_chans: int) -> None:
        """name: on the hub, or a folder. revision: a commit or branch of the hub; None: its main branch of today.

        Raises KdbenchError where the library or the encoder is not there, and for data with tokens it does not know.
        """
        # As timm's attention, which is fused on a GPU only.
        attention = "sdpa" if torch.cuda.is_available() else "eager"
        try:
            encoder = library().AutoModel.from_pretrained(name, revision=revision, attn_implementation=attention)
        except (OSError, ValueError) as error:
            raise KdbenchError(f"huggingface: cannot load {name}: {str(error).splitlines()[0]}") from error
        config = encoder.config
        if in_chans - 1 > config.vocab_size:
            raise KdbenchError(
                f"huggingface: {name} knows {config.vocab_size:,} tokens, and the data have {in_chans - 1:,}"
            )
        super().__init__(config.hidden_size, config.num_hidden_layers, num_classes)
        self.encoder = encoder.float()
        start_as_bert([self.fc])
        if getattr(encoder, "pooler", None) is not None:
            encoder.pooler = None

    def encode(self, tokens: Tensor, known: Tensor) -> tuple[Sequence[Tensor], Tensor]:
        given = self.encoder(
            input_ids=(tokens.long() - 1).clamp(min=0), attention_mask=known.long(), output_hidden_states=True
        )
        return given.hidden_states[1:], given.last_hidden_state


NETWORKS = {
    # The sizes of BERT-mini (Turc et al., arXiv 1908.08962).
    "text_transformer_mini": partial(TextTransformer, 256, 4, 4),
    "huggingface": HuggingFace,
}
"""Name in a suite -> function of `num_classes` and `in_chans`. kdbench/plan/keys.py reads the keys from this source."""
ARGUMENTS = {"huggingface": ("name", "revision")}
"""What such a function takes besides, as `args` of a model."""
