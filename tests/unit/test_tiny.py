"""The tiny Llama is a real one: it loads like any model, and its tokenizer loses nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agemem_dspy.errors import ConfigurationError
from agemem_dspy.policy.models import LoadedModel, load
from agemem_dspy.policy.tiny import TAGS, tiny_llama
from agemem_dspy.policy.weights import model_sha256

CORPUS = [f"<think>note {n}</think><tool_call>[]</tool_call> Ana lives in Rome with {n} cats" for n in range(20)]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load(tiny_llama(tmp_path_factory.mktemp("tiny"), corpus=CORPUS))


def test_a_default_model_has_at_most_a_million_parameters_and_the_asked_vocabulary(tmp_path: Path) -> None:
    corpus = [" ".join(f"word{n}x{m}" for m in range(60)) + chr(0x4E00 + n) * 3 for n in range(200)]
    loaded = load(tiny_llama(tmp_path, corpus=corpus))
    assert sum(p.numel() for p in loaded.model.parameters()) <= 1_000_000
    assert len(loaded.tokenizer) == loaded.model.config.vocab_size <= 1024


@settings(max_examples=200, deadline=None)
@given(text=st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_any_text_survives_the_tokenizer(tiny: LoadedModel, text: str) -> None:
    assert tiny.tokenizer.decode(tiny.tokenizer(text)["input_ids"]) == text


def test_each_tag_is_one_token_that_decoding_keeps(tiny: LoadedModel) -> None:
    for tag in TAGS:
        ids = tiny.tokenizer(tag)["input_ids"]
        assert len(ids) == 1
        assert tiny.tokenizer.decode(ids, skip_special_tokens=True) == tag


def test_digits_are_spelt_one_by_one(tiny: LoadedModel) -> None:
    tokens = tiny.tokenizer.convert_ids_to_tokens(tiny.tokenizer("1234567")["input_ids"])
    assert tokens == list("1234567")


def test_the_chat_template_is_chatml_and_ends_at_eos(tiny: LoadedModel) -> None:
    turns = [{"role": "system", "content": "S"}, {"role": "user", "content": "hi"}]
    text = tiny.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert text == "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert tiny.tokenizer.convert_tokens_to_ids("<|im_end|>") == tiny.model.config.eos_token_id
    assert tiny.model.generation_config.eos_token_id == tiny.model.config.eos_token_id
    assert tiny.tokenizer.pad_token_id not in (None, tiny.tokenizer.eos_token_id)


def test_a_saved_and_loaded_model_gives_equal_logits(tiny: LoadedModel) -> None:
    again = load(tiny.path)
    ids = torch.tensor([tiny.tokenizer("Ana lives in Rome")["input_ids"]])
    with torch.no_grad():
        assert torch.equal(tiny.model(ids).logits, again.model(ids).logits)
    assert again.sha256 == tiny.sha256
    assert not again.model.training


def test_the_seed_decides_the_weights_and_leaves_torchs_generator_alone(tiny: LoadedModel, tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    same = tiny_llama(tmp_path / "same", corpus=CORPUS)
    other = tiny_llama(tmp_path / "other", corpus=CORPUS, seed=1)
    assert torch.rand(1) == expected
    assert model_sha256(same) == tiny.sha256 != model_sha256(other)
    assert (same / "tokenizer.json").read_bytes() == (tiny.path / "tokenizer.json").read_bytes()


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"vocab_size": 100}, "vocab_size must be at least 265"),
        ({"hidden": 60, "heads": 4}, "multiple of 2"),
        ({"layers": 0}, "positive"),
    ],
)
def test_impossible_sizes_say_what_is_possible(tmp_path: Path, sizes: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        tiny_llama(tmp_path, corpus=CORPUS, **sizes)


def test_an_empty_corpus_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="corpus is empty"):
        tiny_llama(tmp_path, corpus=["", ""])
