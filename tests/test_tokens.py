"""Texts as tokens: by words of the training texts, or by a tokenizer of Hugging Face's library."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from kdbench.data import tokens
from kdbench.data.shallow import anchors
from kdbench.types import KdbenchError


def test_words():
    text = "RT @QCRI: 1,200 homes don’t #Maria\n https://t.co/aB1?x=2 &amp; Puerto_Rico 😢 h1n1 www.a.org"
    assert tokens.words(text) == [
        "rt", "<user>", "<number>", "homes", "don’t", "maria", "<url>", "puerto_rico", "h1n1", "<url>",
    ]  # fmt: skip
    assert tokens.words("😢 … !") == []


def test_the_vocabulary_is_the_most_frequent_words_of_training():
    known = tokens.vocabulary_of([["b", "a", "c"], ["a", "b", "d"], ["a"]], 3)
    assert known == {"a": tokens.FIRST, "b": tokens.FIRST + 1, "c": tokens.FIRST + 2}, "as frequent: by name"
    found = tokens.tokens_of_words([["d", "a"], [], ["a", "b", "c", "a"]], known, 3)[:, 0, :, 0]
    assert found.tolist() == [[tokens.UNKNOWN, 2, 0], [tokens.UNKNOWN, 0, 0], [2, 3, 4]]


def test_shallow_methods_read_counts_of_words():
    """Texts of two classes that differ in one word, wherever it stands."""
    rng = np.random.default_rng(0)
    labels = {split: np.arange(40) % 2 for split in ("train", "test")}
    texts = {s: [[*rng.permutation([2 + label, 4, 5, 6]), 0, 0] for label in labels[s]] for s in labels}
    arrays = {split: np.array(some, np.int32)[:, None, :, None] for split, some in texts.items()}
    found = anchors({"text": arrays}, labels, {"text": 7})["text"]
    assert found["nearest neighbour"] == found["logistic regression"] == 100


def write_encoder(folder: Path) -> Path:
    """A tiny BERT with a tokenizer of 24 tokens, as Hugging Face's library writes one. Its weights are a ramp, so that
    they do not depend on how the library starts them."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    transformers = tokens.library()
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghijklmnopqrst"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]").save_pretrained(folder)
    config = transformers.BertConfig(
        vocab_size=24, hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32
    )
    model = transformers.BertModel(config)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.linspace(-1, 1, p.numel()).view(p.shape))
    model.save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_tokens_of_a_published_tokenizer_are_its_numbers_plus_one(tmp_path):
    pytest.importorskip("transformers", reason="the extra `text` is not installed")
    folder = write_encoder(tmp_path / "encoder")
    found, count = tokens.published_tokens({"train": ["a b", "a z &amp;", ""], "test": ["a b c d e f"]}, str(folder), 5)
    assert count == 25
    # [CLS] is 2 there, [SEP] 3, [UNK] 1, a 4.
    assert found["train"][:, 0, :, 0].tolist() == [[3, 5, 6, 4, 0], [3, 5, 2, 2, 4], [3, 4, 0, 0, 0]]
    assert found["test"].shape == (1, 1, 5, 1) and found["test"][0, 0, :, 0].tolist() == [3, 5, 6, 7, 4]
    with pytest.raises(KdbenchError, match=r"tokenizer: cannot load .*absent"):
        tokens.published_tokens({"train": ["a"]}, str(tmp_path / "absent"), 5)


def test_the_library_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(KdbenchError, match=r"not installed: pip install 'kdbench\[text\]'"):
        tokens.published_tokens({"train": ["a"]}, "prajjwal1/bert-tiny", 5)
