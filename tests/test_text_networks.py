"""The network that reads tokens: as large as counted, blind to padding, shown as other networks are."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from test_models import spec

from kdbench.signals import Reader, example
from kdbench.train import networks
from kdbench.train.batches import check_recipe
from kdbench.train.operations import forward_operations
from kdbench.train.text_networks import LONGEST
from kdbench.types import KdbenchError, Recipe

NAME, WIDTH, DEPTH = "text_transformer_mini", 256, 4
LENGTH, WORDS, CLASSES = 12, 40, 3
SHAPE = (1, LENGTH, WORDS)


@pytest.fixture(scope="module")
def model():
    return networks.build(spec(NAME), SHAPE, CLASSES, 0).eval()


def texts(*lengths: int, padded: int = LENGTH) -> torch.Tensor:
    """Tokens (B, 1, 1, padded) of random texts, the first always the same."""
    tokens = torch.zeros(len(lengths), 1, 1, padded, dtype=torch.int32)
    for row, length in zip(tokens, lengths, strict=True):
        row[0, 0, :length] = torch.randint(1, WORDS, (length,), generator=torch.Generator().manual_seed(length))
    return tokens


def test_as_large_as_counted_layer_by_layer(model):
    block = 4 * (WIDTH * WIDTH + WIDTH) + 2 * 2 * WIDTH + 2 * 4 * WIDTH * WIDTH + 5 * WIDTH
    outside = (WORDS + LONGEST) * WIDTH + 2 * WIDTH + CLASSES * (WIDTH + 1)
    assert networks.parameter_count(model) == DEPTH * block + outside
    products = LENGTH * 12 * WIDTH * WIDTH + 2 * LENGTH * LENGTH * WIDTH
    assert forward_operations(model, SHAPE) == 2 * (DEPTH * products + WIDTH * CLASSES)


@torch.no_grad()
def test_padding_changes_nothing(model):
    """Not how much of it there is, nor what its embedding is."""
    lengths = (5, LENGTH, 1)
    reader = Reader(model, SHAPE, "vit")
    together = reader(texts(*lengths))
    for i, length in enumerate(lengths):
        alone = reader(texts(length, padded=length))
        assert torch.allclose(alone.logits[0], together.logits[i], atol=1e-5)
        assert torch.allclose(alone.pooled[0], together.pooled[i], atol=1e-5)
        for one, many in zip(alone.stages, together.stages, strict=True):
            assert torch.allclose(one[0], many[i, :, :, :length], atol=1e-5) and not many[i, :, :, length:].any()
    padding = model.embedding.weight[0].clone()
    try:
        model.embedding.weight[0] = 100.0
        changed = reader(texts(*lengths))
    finally:
        model.embedding.weight[0] = padding
    assert torch.equal(changed.logits, together.logits) and torch.equal(changed.stages[3], together.stages[3])
    assert model(texts(0, 3)).isfinite().all(), "a text without a token"


@torch.no_grad()
def test_what_it_reads_is_words_in_their_order(model):
    """Texts that differ in one word, or in the order of two, have other logits."""
    text = texts(6)
    other, turned = text.clone(), text.clone()
    other[..., 2] = other[..., 2] % (WORDS - 1) + 1
    turned[..., :2] = text[..., :2].flip(-1)
    assert not torch.equal(text, turned)
    for changed in (other, turned):
        assert (model(changed) - model(text)).abs().max() > 1e-4


def test_it_is_shown_as_other_networks_are(model):
    reader = Reader(model, SHAPE, "vit")
    side = reader.side
    assert side.stages == ((WIDTH, 1, LENGTH),) * 4 and (side.prefix, side.pooled) == (0, WIDTH)
    x = example(model, SHAPE, 4)
    assert x.dtype == torch.int32 and x.min() > 0 and x.max() < WORDS
    signals = reader(x)
    assert torch.equal(signals.logits, model(x)) and torch.equal(signals.logits, model.fc(signals.pooled))
    sum(map(torch.sum, (signals.logits, *signals.stages))).backward()
    assert all(p.grad is not None for p in model.parameters())
    model.zero_grad()


@torch.no_grad()
def test_bf16_is_near(model):
    with torch.autocast("cpu", torch.bfloat16):
        near = model(texts(5, 9))
    assert torch.allclose(near.float(), model(texts(5, 9)), atol=0.05)


def test_data_and_networks_that_do_not_fit_are_named():
    networks.try_out(spec(NAME), SHAPE, CLASSES, 4, "tokens")
    for name, shape, kind, told in (
        (NAME, (8, 8, 3), "image", "text_transformer_mini cannot read image, whose kind is image"),
        ("resnet18", SHAPE, "tokens", "resnet18 cannot read image, whose kind is tokens; networks for tokens: text_"),
        (NAME, (1, LONGEST + 1, WORDS), "tokens", "cannot be trained on inputs of 1x513"),
    ):
        with pytest.raises(KdbenchError, match=told):
            networks.try_out(spec(name), shape, CLASSES, 4, kind)


@pytest.mark.parametrize("key", ["mixup", "cutmix"])
def test_tokens_are_not_mixed(key):
    recipe = dataclasses.replace(Recipe("r", lr=0.1, steps=1), **{key: 0.5})
    with pytest.raises(KdbenchError, match="mixup and cutmix mix values, but text is tokens"):
        check_recipe(recipe, {"text": {"kind": "tokens", "shape": list(SHAPE)}})
