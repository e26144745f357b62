"""The other order of multiplication gives the same layer, and is taken only where it may be faster."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from sampling import generate
from transformers import PreTrainedModel

from agemem_dspy.policy.generation import Row
from agemem_dspy.policy.linear import FewTokensLinear, rounded_up, suit_few_tokens
from agemem_dspy.policy.models import load
from agemem_dspy.policy.tiny import tiny_llama

pytestmark = pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="PyTorch multiplies without MKL here")


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    former = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield int(request.param)
    torch.set_num_threads(former)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("tiny"), corpus=["Ana lives in Rome"], vocab_size=300)


def layer(*, bias: bool) -> torch.nn.Linear:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return torch.nn.Linear(24, 40, bias=bias)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(), (1,), (2,), (7, 1), (1, 8), (1, 9), (3, 16), (1, 192), (1, 208)])
def test_a_suited_layer_is_the_same_layer(threads: int, bias: bool, shape: tuple[int, ...]) -> None:
    plain = layer(bias=bias)
    suited = torch.nn.Sequential(copy.deepcopy(plain))
    suit_few_tokens(suited)
    assert type(copy.deepcopy(suited)[0]) is FewTokensLinear
    x = torch.randn(*shape, 24, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert suited(x).shape == plain(x).shape
        assert torch.allclose(suited(x), plain(x), atol=1e-6)
        assert torch.allclose(suited(x.mT.contiguous().mT if x.ndim > 1 else x), plain(x), atol=1e-6)


def test_gradients_are_those_of_the_plain_layer(threads: int) -> None:
    plain = layer(bias=True)
    suited = torch.nn.Sequential(copy.deepcopy(plain))
    suit_few_tokens(suited)
    x = torch.ones(4, 24)
    plain(x).square().sum().backward()
    suited(x).square().sum().backward()
    for one, other in zip(plain.parameters(), suited.parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert torch.equal(one.grad, other.grad)


def test_more_tokens_are_computed_where_that_takes_less_time(threads: int, folder: Path) -> None:
    model = load(folder).model
    assert [rounded_up(n, model) for n in (0, 1, 8, 9, 17, 500)] == [0, 1, 8, 9, 17, 500]
    suit_few_tokens(model)
    expected = [0, 1, 8, 9, 16, 17, 192, 193] if threads == 1 else [0, 1, 8, 16, 16, 32, 192, 193]
    assert [rounded_up(n, model) for n in (0, 1, 8, 9, 16, 17, 192, 193)] == expected


def completed(model: PreTrainedModel) -> list[Row]:
    source = np.random.default_rng(0)
    rows = [
        Row(
            prompt_ids=source.integers(3, 250, length),
            max_new_tokens=6,
            temperature=temperature,
            random=np.random.default_rng(length),
        )
        for length, temperature in ((1, 0.0), (5, 1.0), (17, 0.0), (23, 0.5))
    ]
    generate(model, rows, stop_ids=frozenset())
    return rows


def test_completions_are_the_same(threads: int, folder: Path) -> None:
    plain, suited = load(folder).model, load(folder).model
    suit_few_tokens(suited)
    for one, other in zip(completed(plain), completed(suited), strict=True):
        assert one.completion_ids == other.completion_ids
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)
