"""Sampling for rollouts: rows join and leave a running batch, known prefixes are not computed again, and likely
tokens are checked several at a time.

A `Batch` serves prompts under one set of weights. Each `step` is one forward pass over what every row has not
computed yet: the prompt's new part for a row that has just joined, else the last token, and a draft (see `drafts`). A
drafted token is kept when it is the one that is drawn, so drafts change the time a completion takes and not its
distribution.

Shapes: L layers, H key/value heads, T tokens, D head size, R positions to draw from, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

import numpy as np
import torch
from transformers import PreTrainedModel

from agemem_dspy.policy.drafts import MAX_DRAFT, Draft, History, Phrasebook
from agemem_dspy.policy.ragged import Span, forward, new_memory
from agemem_dspy.policy.reuse import PrefixPool, TokenIds, common_prefix

_BLOCK = 256
_WORTH_SHARING = 16


@dataclass(slots=True, eq=False)
class Row:
    """One prompt (P,) and how to continue it; `random` supplies one uniform a token and is the row's own."""

    prompt_ids: TokenIds
    max_new_tokens: int
    temperature: float
    random: np.random.Generator
    completion_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    stopped: bool = False


@dataclass(slots=True)
class GenerationCounts:
    """Tokens so far: in prompts, computed of prompts, sampled, and how many of those came from drafts."""

    prompt_tokens: int = 0
    computed_tokens: int = 0
    completion_tokens: int = 0
    drafted_tokens: int = 0
    calls: int = 0
    passes: int = 0


class _Sequence:
    """A row in the batch: its tokens and the memory of those computed."""

    def __init__(self, row: Row, memory: torch.Tensor, computed: int) -> None:
        self.row, self.memory, self.computed = row, memory, computed
        self.history = History(row.prompt_ids.tolist())
        self.uniforms: list[float] = []

    @property
    def ids(self) -> list[int]:
        """Its tokens so far."""
        return self.history.ids

    @property
    def room(self) -> int:
        """How many tokens may follow the next one."""
        return self.row.max_new_tokens - len(self.row.completion_ids) - 1

    def uniform(self, ahead: int) -> float:
        """Return the uniform of the completion's token `ahead` of the next one."""
        at = len(self.row.completion_ids) + ahead
        while len(self.uniforms) <= at:
            self.uniforms.append(self.row.random.random())
        return self.uniforms[at]


class Batch:
    """Rows that are sampled together under one set of weights; not thread-safe.

    Args:
        model: a causal LM (see `ragged`).
        stop_ids: tokens that end a completion.
        pool: where prefixes are looked up and kept; None computes everything.
        phrases: where drafts are looked up and learnt; None starts empty.
        counts: accumulates token counts when given.
        max_draft: most tokens drafted for a row in a pass; 0 samples one token a pass.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        stop_ids: frozenset[int],
        pool: PrefixPool | None = None,
        phrases: Phrasebook | None = None,
        counts: GenerationCounts | None = None,
        max_draft: int = MAX_DRAFT,
    ) -> None:
        self.model, self.stop_ids, self.pool, self.max_draft = model, stop_ids, pool, max_draft
        self.phrases = phrases or Phrasebook()
        self.counts = counts or GenerationCounts()
        self._sequences: list[_Sequence] = []
        self._joined: list[_Sequence] = []  # since the last step

    def __len__(self) -> int:
        return len(self._sequences)

    def admit(self, row: Row) -> None:
        """Let a row join; its prompt must have at least one token."""
        known, kept = self.pool.match(row.prompt_ids[:-1]) if self.pool is not None else (0, None)
        memory = new_memory(self.model, len(row.prompt_ids) + row.max_new_tokens)
        if kept is not None:
            memory[:, :, :, :known] = kept[:, :, :, :known]
        self._sequences.append(_Sequence(row, memory, known))
        self._joined.append(self._sequences[-1])
        self.counts.calls += 1
        self.counts.prompt_tokens += len(row.prompt_ids)
        self.counts.computed_tokens += len(row.prompt_ids) - known

    def step(self) -> list[Row]:
        """Sample at least one token for every row; return the rows that are done, which leave.

        Rows get `completion_ids`, the stop token included, and natural-log `logprobs` under their temperature (under
        1.0 when it is 0, which means greedy).
        """
        sequences = self._sequences
        if not sequences:
            return []
        self._share_prefixes()
        most, rows = self.max_draft, len(sequences)
        drafts = [
            one.history.draft(self.phrases, min(most, one.room), rows=rows, stop_ids=self.stop_ids) for one in sequences
        ]
        spans = [
            Span([*one.ids[one.computed :], *draft.tokens], one.computed, one.memory)
            for one, draft in zip(sequences, drafts, strict=True)
        ]
        asked = [len(draft.tokens) + 1 for draft in drafts]  # positions of each row that are drawn from
        ends = np.cumsum([len(span.ids) for span in spans]).tolist()
        wanted = [at for end, n in zip(ends, asked, strict=True) for at in range(end - n, end)]
        logits = forward(self.model, spans, wanted)
        places = [(one, i) for one, n in zip(sequences, asked, strict=True) for i in range(n)]
        drawn = iter(_draw(logits, [one.row.temperature for one, _ in places], places))
        self.counts.passes += 1
        done = []
        for one, draft, n in zip(sequences, drafts, asked, strict=True):
            self._take(one, draft, [next(drawn) for _ in range(n)])
            if one.row.stopped:
                done.append(one.row)
                if self.pool is not None:
                    self.pool.put(np.array(one.ids[:-1]), one.memory[:, :, :, : one.computed])
        self._sequences = [one for one in sequences if not one.row.stopped]
        return done

    def _share_prefixes(self) -> None:
        """Compute once what several rows that joined together begin with, as the K prompts of a group do."""
        leaders: list[_Sequence] = []
        followers: list[tuple[_Sequence, _Sequence, int]] = []
        for one in self._joined if self.pool is not None else ():
            ids = one.row.prompt_ids[:-1]  # the last token is what the first of the completion is drawn from
            shared, leader = max(
                ((common_prefix(ids, other.row.prompt_ids[:-1]), other) for other in leaders),
                key=lambda found: found[0],
                default=(0, None),
            )
            if leader is not None and shared >= one.computed + _WORTH_SHARING:
                followers.append((one, leader, shared))
            else:
                leaders.append(one)
        self._joined = []
        needed: dict[int, int] = {}
        for _, leader, shared in followers:
            needed[id(leader)] = max(shared, needed.get(id(leader), 0))
        ahead = [one for one in leaders if needed.get(id(one), 0) > one.computed]
        if ahead:
            spans = [Span(one.ids[one.computed : needed[id(one)]], one.computed, one.memory) for one in ahead]
            forward(self.model, spans, [])
            for one in ahead:
                one.computed = needed[id(one)]
        for one, leader, shared in followers:
            one.memory[:, :, :, one.computed : shared] = leader.memory[:, :, :, one.computed : shared]
            self.counts.computed_tokens -= shared - one.computed
            one.computed = shared

    def _take(self, one: _Sequence, draft: Draft, drawn: Sequence[tuple[int, float]]) -> None:
        """Append drawn tokens for as long as the draft foresaw them, and the one that it did not."""
        row, before, right = one.row, len(one.ids), 0
        for (token, logprob), foreseen in zip_longest(drawn, draft.tokens):
            one.history.append(token)
            row.completion_ids.append(token)
            row.logprobs.append(logprob)
            row.stopped = token in self.stop_ids or len(row.completion_ids) >= row.max_new_tokens
            right += token == foreseen
            if row.stopped or token != foreseen:
                break
        self.phrases.judge(draft, right)
        self.phrases.learn(one.ids, before)
        one.computed = len(one.ids) - 1
        self.counts.completion_tokens += len(one.ids) - before
        self.counts.drafted_tokens += len(one.ids) - before - 1


def _draw(
    logits: torch.Tensor, temperatures: Sequence[float], places: Sequence[tuple[_Sequence, int]]
) -> list[tuple[int, float]]:
    """Draw a token for each of the R positions by inverting its cumulative distribution; return it with its log-prob.

    The distribution is summed by blocks first, so that only one block a position is summed token by token. Where the
    temperature is 0, the likeliest token is taken.
    """
    scales = [temperature or 1.0 for temperature in temperatures]
    if any(scale != 1.0 for scale in scales):
        logits = logits / torch.tensor(scales, device=logits.device)[:, None]
    highest, chosen = logits.max(dim=-1)
    weights = (logits - highest[:, None]).exp_()
    if logits.shape[1] % _BLOCK:
        weights = torch.nn.functional.pad(weights, (0, -logits.shape[1] % _BLOCK))
    blocks = weights.unflatten(1, (-1, _BLOCK))  # (R, V / block, block)
    sums = blocks.sum(dim=-1).double().cumsum(dim=-1)
    sampled = [i for i, temperature in enumerate(temperatures) if temperature > 0]
    if sampled:
        uniforms = [one.uniform(ahead) for one, ahead in (places[i] for i in sampled)]
        drawn = _invert(blocks, sums, torch.tensor(uniforms, dtype=torch.float64, device=logits.device), sampled)
        chosen[sampled] = drawn.clamp(max=logits.shape[1] - 1)
    picked = logits.gather(1, chosen[:, None])[:, 0] - highest - sums[:, -1].log()
    return list(zip(chosen.tolist(), picked.tolist(), strict=True))


def _invert(blocks: torch.Tensor, sums: torch.Tensor, uniforms: torch.Tensor, positions: Sequence[int]) -> torch.Tensor:
    """Return for some of the R positions the first token whose cumulative probability exceeds its uniform.

    Args:
        blocks: what each token weighs, (R, V / block, block).
        sums: of the blocks, cumulated, (R, V / block).
        uniforms: one for each of `positions`.
    """
    own = torch.tensor(positions, device=blocks.device)
    sums = sums[own]
    targets = (uniforms * sums[:, -1])[:, None]
    block = torch.searchsorted(sums, targets, right=True).clamp(max=sums.shape[1] - 1)
    before = torch.where(block > 0, sums.gather(1, (block - 1).clamp(min=0)), 0.0)
    inside = blocks[own, block[:, 0]].double().cumsum(dim=-1)
    token = torch.searchsorted(inside, targets - before, right=True).clamp(max=_BLOCK - 1)
    return (block * _BLOCK + token)[:, 0]
