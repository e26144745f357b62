"""Batched sampling with a reusable cache gives what a plain forward pass gives."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sampling import generate
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from agemem_dspy.policy.drafts import Phrasebook
from agemem_dspy.policy.generation import GenerationCounts, Row
from agemem_dspy.policy.models import load
from agemem_dspy.policy.reuse import PrefixPool
from agemem_dspy.policy.tiny import tiny_llama

NO_STOP: frozenset[int] = frozenset()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedModel:
    loaded = load(tiny_llama(tmp_path_factory.mktemp("tiny"), corpus=["Ana lives in Rome"], vocab_size=300)).model
    return loud(loaded)


def loud(model: PreTrainedModel) -> PreTrainedModel:
    """Make fresh weights large, so that each token depends on all that came before it and not on the last alone."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("proj.weight"):
                parameter.mul_(10)
    return model.eval()


@pytest.fixture(scope="module")
def grouped() -> PreTrainedModel:
    """A Llama whose query heads share key/value heads."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        config = LlamaConfig(
            vocab_size=97,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
        )
        return loud(LlamaForCausalLM(config))


def rows_of(
    prompts: Sequence[Sequence[int]], *, new: int | Sequence[int] = 6, temperature: float = 0.0, seed: int = 0
) -> list[Row]:
    limits = [new] * len(prompts) if isinstance(new, int) else new
    return [
        Row(
            prompt_ids=np.array(ids, dtype=np.int64),
            max_new_tokens=limit,
            temperature=temperature,
            random=np.random.default_rng((seed, i)),
        )
        for i, (ids, limit) in enumerate(zip(prompts, limits, strict=True))
    ]


def random_prompts(lengths: Sequence[int], *, vocab: int = 97, seed: int = 0) -> list[list[int]]:
    source = np.random.default_rng(seed)
    return [source.integers(3, vocab, size=length).tolist() for length in lengths]


def plain_logprobs(model: PreTrainedModel, row: Row, temperature: float) -> torch.Tensor:
    """Return log-softmax rows (T, V) for each completion token, from one ordinary pass over the whole sequence."""
    ids = torch.tensor([[*row.prompt_ids.tolist(), *row.completion_ids]])
    with torch.no_grad():
        logits = model(ids).logits[0, len(row.prompt_ids) - 1 : -1].float()
    return torch.log_softmax(logits / temperature, dim=-1)


def greedy(model: PreTrainedModel, prompt: Sequence[int], new: int) -> list[int]:
    ids = torch.tensor([list(prompt)])
    for _ in range(new):
        with torch.no_grad():
            ids = torch.cat([ids, model(ids).logits[:, -1].argmax(-1, keepdim=True)], dim=1)
    return [int(token) for token in ids[0, len(prompt) :]]


@pytest.mark.parametrize("lengths", [[1], [5], [3, 9], [12, 1, 7, 7, 2]])
def test_greedy_completions_are_those_of_an_uncached_loop(grouped: PreTrainedModel, lengths: list[int]) -> None:
    prompts = random_prompts(lengths)
    rows = rows_of(prompts)
    generate(grouped, rows, stop_ids=NO_STOP)
    assert [row.completion_ids for row in rows] == [greedy(grouped, prompt, 6) for prompt in prompts]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_prefix_reuse_does_not_change_a_token(model: PreTrainedModel, data: st.DataObject) -> None:
    """Conversations that grow, branch and are cut, at ragged lengths and batch sizes, with and without a pool."""
    pool = PrefixPool()
    stems = random_prompts([9, 14], vocab=200, seed=3)
    for seed in range(data.draw(st.integers(1, 3), label="calls")):
        prompts = [
            data.draw(st.sampled_from(stems))[: data.draw(st.integers(1, 14))]
            + random_prompts([data.draw(st.integers(0, 6))], vocab=200, seed=data.draw(st.integers(0, 3)))[0]
            for _ in range(data.draw(st.integers(1, 5), label="batch"))
        ]
        cold, warm = rows_of(prompts, temperature=1.0, seed=seed), rows_of(prompts, temperature=1.0, seed=seed)
        generate(model, cold, stop_ids=NO_STOP)
        generate(model, warm, stop_ids=NO_STOP, pool=pool)
        assert [row.completion_ids for row in warm] == [row.completion_ids for row in cold]
        for a, b in zip(warm, cold, strict=True):
            assert a.logprobs == pytest.approx(b.logprobs, abs=1e-4)
        stems += [[*row.prompt_ids.tolist(), *row.completion_ids] for row in cold]


def test_a_prompt_that_begins_another_is_drawn_from_its_own_last_token(model: PreTrainedModel) -> None:
    """Sharing once computed all of it ahead, and its first token was drawn from another row."""
    (prompt,) = random_prompts([20], vocab=200)
    rows = rows_of([prompt, [*prompt, 7]])
    generate(model, rows, stop_ids=NO_STOP, pool=PrefixPool())
    assert [row.completion_ids for row in rows] == [greedy(model, row.prompt_ids.tolist(), 6) for row in rows]


@pytest.mark.parametrize("temperature", [1.0, 0.7, 1.6])
def test_sampled_logprobs_are_those_of_a_plain_pass(model: PreTrainedModel, temperature: float) -> None:
    pool = PrefixPool()
    for seed in (0, 1):  # the second call takes its prompts from the pool
        rows = rows_of(random_prompts([3, 17, 8], vocab=200), temperature=temperature, seed=seed)
        generate(model, rows, stop_ids=NO_STOP, pool=pool)
        for row in rows:
            expected = plain_logprobs(model, row, temperature)[range(6), row.completion_ids]
            assert row.logprobs == pytest.approx(expected.tolist(), abs=1e-4)


def test_greedy_logprobs_are_those_of_temperature_one(model: PreTrainedModel) -> None:
    (row,) = rows_of(random_prompts([5], vocab=200))
    generate(model, [row], stop_ids=NO_STOP)
    assert row.logprobs == pytest.approx(plain_logprobs(model, row, 1.0).max(dim=-1).values.tolist(), abs=1e-4)


def test_tokens_are_drawn_with_their_probabilities(grouped: PreTrainedModel) -> None:
    (prompt,) = random_prompts([4])
    rows = rows_of([prompt] * 3000, new=1, temperature=2.0)
    generate(grouped, rows, stop_ids=NO_STOP)
    drawn = np.bincount([row.completion_ids[0] for row in rows], minlength=97) / len(rows)
    wanted = plain_logprobs(grouped, rows[0], 2.0)[0].exp().numpy()
    assert np.abs(drawn - wanted).max() < 4 * np.sqrt(wanted.max() / len(rows))
    assert np.corrcoef(drawn, wanted)[0, 1] > 0.3


def test_a_row_depends_on_its_own_random_stream_alone(model: PreTrainedModel) -> None:
    prompts = random_prompts([6, 11, 3, 8], vocab=200)
    together = rows_of(prompts, temperature=1.0)
    generate(model, together, stop_ids=NO_STOP)
    for i, row in enumerate(rows_of(prompts, temperature=1.0)):
        generate(model, [row], stop_ids=NO_STOP)
        assert row.completion_ids == together[i].completion_ids


def test_rows_of_other_temperatures_and_lengths_share_a_batch(model: PreTrainedModel) -> None:
    prompts = random_prompts([6, 6], vocab=200)
    cold, hot = rows_of(prompts, new=[2, 9])
    hot.temperature = 1.5
    generate(model, [cold, hot], stop_ids=NO_STOP)
    assert cold.completion_ids == greedy(model, prompts[0], 2)
    assert len(hot.completion_ids) == 9
    assert hot.logprobs == pytest.approx(
        plain_logprobs(model, hot, 1.5)[range(9), hot.completion_ids].tolist(), abs=1e-4
    )


def test_rows_that_stop_early_leave_the_batch(model: PreTrainedModel) -> None:
    """Half of the rows stop at once; the others go on as if they had been alone, and the batch gets smaller."""
    prompts = random_prompts([5, 9, 4, 12, 7, 3], vocab=200)
    limits = [1, 1, 12, 1, 12, 1]
    sizes: list[int] = []
    hook = model.register_forward_pre_hook(
        lambda module, args, kwargs: sizes.append(len(kwargs["ragged"])), with_kwargs=True
    )
    rows = rows_of(prompts, new=limits)
    generate(model, rows, stop_ids=NO_STOP, max_draft=0)
    hook.remove()
    assert sizes == [6] + [2] * 11
    assert [row.completion_ids for row in rows] == [greedy(model, p, n) for p, n in zip(prompts, limits, strict=True)]


def test_a_stop_token_ends_a_row_and_is_kept(model: PreTrainedModel) -> None:
    (prompt,) = random_prompts([5], vocab=200)
    expected = greedy(model, prompt, 6)
    (row,) = rows_of([prompt])
    generate(model, [row], stop_ids=frozenset({expected[2]}))
    end = expected.index(expected[2]) + 1
    assert row.completion_ids == expected[:end]
    assert len(row.logprobs) == end
    assert row.stopped


def test_counts_tell_what_reuse_saved(model: PreTrainedModel) -> None:
    (prompt,) = random_prompts([20], vocab=200)
    pool, counts = PrefixPool(), GenerationCounts()
    (first,) = rows_of([prompt], new=4)
    generate(model, [first], stop_ids=NO_STOP, pool=pool, counts=counts)
    (second,) = rows_of([[*prompt, *first.completion_ids, 7, 8]], new=1)
    generate(model, [second], stop_ids=NO_STOP, pool=pool, counts=counts)
    assert (counts.prompt_tokens, counts.calls, counts.completion_tokens) == (20 + 26, 2, 5)
    assert counts.computed_tokens == 20 + 3  # the last sampled token and the two new ones


# Drafts


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_drafts_do_not_change_a_token(model: PreTrainedModel, data: st.DataObject) -> None:
    """Rows that repeat themselves and one another, of one phrasebook or none."""
    phrases = Phrasebook()
    stems = random_prompts([4, 6], vocab=40, seed=1)
    for seed in range(data.draw(st.integers(1, 3), label="calls")):
        prompts = [
            [*itertools.chain(*data.draw(st.lists(st.sampled_from(stems), min_size=1, max_size=4)))]
            for _ in range(data.draw(st.integers(1, 4), label="batch"))
        ]
        plain, drafted = (rows_of(prompts, new=12, temperature=0.5, seed=seed) for _ in range(2))
        generate(model, plain, stop_ids=NO_STOP, max_draft=0)
        generate(model, drafted, stop_ids=NO_STOP, phrases=phrases)
        assert [row.completion_ids for row in drafted] == [row.completion_ids for row in plain]
        stems += [row.completion_ids for row in plain]


def test_what_one_row_said_is_the_draft_of_the_next(model: PreTrainedModel) -> None:
    (prompt,) = random_prompts([9], vocab=200)
    phrases, first, second = Phrasebook(), GenerationCounts(), GenerationCounts()
    generate(model, rows_of([prompt], new=12), stop_ids=NO_STOP, phrases=phrases, counts=first)
    generate(model, rows_of([prompt], new=12), stop_ids=NO_STOP, phrases=phrases, counts=second)
    assert second.drafted_tokens >= 10 > first.drafted_tokens
    assert second.passes < 0.5 * first.passes


# The pool


def entry(length: int) -> torch.Tensor:
    return torch.zeros(1, 2, 1, length, 4)  # 32 bytes a token


def ids(*tokens: int) -> np.ndarray:
    return np.array(tokens, dtype=np.int64)


def test_the_pool_finds_the_longest_common_prefix() -> None:
    pool = PrefixPool()
    pool.put(ids(1, 2, 3, 4), entry(4))
    pool.put(ids(1, 2, 9), entry(3))
    assert [pool.match(ids(*tokens))[0] for tokens in ([1, 2, 3, 5], [1, 2, 9, 9], [1], [7], [])] == [3, 3, 1, 0, 0]
    assert pool.match(ids(7))[1] is None


def test_the_pool_drops_what_was_used_longest_ago() -> None:
    pool = PrefixPool(max_bytes=3 * 32)
    pool.put(ids(1), entry(1))
    pool.put(ids(2), entry(1))
    pool.put(ids(3), entry(1))
    pool.match(ids(1))
    pool.put(ids(2), entry(1))
    pool.put(ids(4), entry(1))
    assert [pool.match(ids(token))[0] for token in (1, 2, 3, 4)] == [1, 1, 0, 1]


def test_an_entry_larger_than_the_pool_is_not_kept_for_long() -> None:
    pool = PrefixPool(max_bytes=2 * 32)
    pool.put(ids(1, 2, 3), entry(3))
    pool.put(ids(4), entry(1))
    assert (pool.match(ids(1, 2, 3))[0], pool.match(ids(4))[0]) == (0, 1)


def test_a_view_counts_with_all_that_it_keeps_in_memory() -> None:
    pool = PrefixPool(max_bytes=8 * 32)
    pool.put(ids(1), entry(7)[:, :, :, :1])  # as a batch keeps it: room for a completion that ended early
    pool.put(ids(2), entry(7)[:, :, :, :1])
    assert [pool.match(ids(token))[0] for token in (1, 2)] == [0, 1]


def test_a_cleared_pool_knows_nothing() -> None:
    pool = PrefixPool()
    pool.put(ids(1), entry(1))
    pool.clear()
    assert pool.match(ids(1)) == (0, None)
    pool.put(ids(1), entry(1))
    assert pool.match(ids(1))[0] == 1
