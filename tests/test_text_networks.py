"""Networks that read tokens: as large as counted, blind to padding, shown as other networks are."""

from __future__ import annotations

import dataclasses
import sys

import pytest
import torch
import yaml
from conftest import REPOSITORY
from test_models import spec
from test_tokens import write_encoder

from kdbench.data.tokens import library
from kdbench.plan.suite import check_suite
from kdbench.signals import Reader, example
from kdbench.train import networks
from kdbench.train.batches import check_recipe
from kdbench.train.operations import forward_operations
from kdbench.train.text_networks import LONGEST
from kdbench.types import KdbenchError, ModelSpec, Recipe

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


# -------------------------------------------------------------------------------------------------------- Hugging Face


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """The folder of a tiny encoder, and a network that is built of it."""
    pytest.importorskip("transformers", reason="the extra `text` is not installed")
    folder = write_encoder(tmp_path_factory.mktemp("hub") / "encoder")
    return folder, networks.build(of(str(folder)), (1, LENGTH, 25), CLASSES, 0).eval()


def of(name: str) -> ModelSpec:
    return ModelSpec("m", "huggingface", "d", "r", "text", {"name": name}, "vit")


@pytest.mark.slow
@torch.no_grad()
def test_an_encoder_is_what_its_library_computes_of_texts_without_padding(encoder):
    folder, network = encoder
    model = library().AutoModel.from_pretrained(folder).eval()
    tokens = texts(5, LENGTH) % 24 + (texts(5, LENGTH) > 0)
    signals = Reader(network, (1, LENGTH, 25), "vit")(tokens)
    for i, length in enumerate((5, LENGTH)):
        given = model(input_ids=tokens[i : i + 1, 0, 0, :length].long() - 1, output_hidden_states=True)
        assert torch.allclose(signals.pooled[i], given.last_hidden_state[0].mean(dim=0), atol=1e-5)
        for stage, hidden in zip(signals.stages, given.hidden_states[1:], strict=True):
            assert torch.allclose(stage[i, :, 0, :length], hidden[0].T, atol=1e-5)
            assert not stage[i, :, 0, length:].any()
    assert torch.allclose(signals.logits, network.fc(signals.pooled))


@pytest.mark.slow
def test_every_parameter_of_an_encoder_is_trained_and_its_classifier_comes_from_the_seed(encoder):
    folder, network = encoder
    network.train()(example(network, (1, LENGTH, 25))).square().sum().backward()
    assert all(p.grad is not None for p in network.parameters())
    network.eval().zero_grad()
    same, other = (networks.build(of(str(folder)), (1, LENGTH, 25), CLASSES, seed) for seed in (0, 1))
    assert torch.equal(same.fc.weight, network.fc.weight) and not torch.equal(other.fc.weight, network.fc.weight)
    assert all(map(torch.equal, other.encoder.parameters(), network.encoder.parameters()))
    networks.try_out(of(str(folder)), (1, LENGTH, 25), CLASSES, 4, "tokens")


@pytest.mark.slow
def test_encoders_that_cannot_be_had_are_named(encoder, tmp_path, monkeypatch):
    folder, _ = encoder
    for name, vocabulary, told in (
        (str(tmp_path / "absent"), 25, r"huggingface: cannot load .*absent"),
        (str(folder), 26, "knows 24 tokens, and the data have 25"),
    ):
        with pytest.raises(KdbenchError, match=told):
            networks.build(of(name), (1, LENGTH, vocabulary), CLASSES, 0)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(KdbenchError, match=r"not installed: pip install 'kdbench\[text\]'"):
        networks.build(of(str(folder)), (1, LENGTH, 25), CLASSES, 0)


def test_a_suite_gives_an_encoder_its_name_and_its_tokenizer():
    def checked(args: dict, **data) -> ModelSpec:
        tree = yaml.safe_load((REPOSITORY / "config/fdcmkd-crisismmd.yaml").read_text(encoding="utf-8"))
        tree["data"]["crisismmd"] |= data
        tree["models"]["text"] |= {"timm": "huggingface", "args": args}
        return check_suite(tree, "x", "x.yaml").models["text"]

    name = "prajjwal1/bert-tiny"
    assert checked({"name": name, "revision": "6f75de8"}, tokenizer=name).family == "vit"
    for args, data, told in (
        ({}, {}, "huggingface needs the name of an encoder"),
        ({"name": name}, {}, "those of the data 'crisismmd' are of 'words'; add tokenizer: prajjwal1/bert-tiny there"),
        ({"name": name, "revison": "x"}, {"tokenizer": name}, "did you mean 'revision'"),
    ):
        with pytest.raises(KdbenchError, match=told):
            checked(args, **data)
