"""A tiny base model trained on the spot, for quick runs and tests where no pretrained model is at hand.

All weights of a small Llama learn from episodes that a careless demonstrator played, so that it comes out knowing
the format and most of the copying, but not always the right choice: that is left to the warm start and to GRPO.
Such a model knows the words of its examples only.
"""

from __future__ import annotations

import copy
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import dspy
import numpy as np
import torch
from transformers import PreTrainedModel

from agemem_dspy.errors import ConfigurationError, DataError
from agemem_dspy.memory.embedder import HashEmbedder
from agemem_dspy.memory.long_term import LongTermMemory
from agemem_dspy.optimizers.demonstrator import Script, careless_outputs, within_tools
from agemem_dspy.optimizers.rows import Row, batches, pack, shared_prefix
from agemem_dspy.optimizers.tree import Sample
from agemem_dspy.policy.compact import CompactAdapter
from agemem_dspy.policy.engine import PolicyEngine
from agemem_dspy.policy.models import load
from agemem_dspy.policy.sources import quiet_bars
from agemem_dspy.policy.tiny import tiny_llama
from agemem_dspy.programs.episode import ThreeStageEpisode
from agemem_dspy.signatures import Transcript
from agemem_dspy.types import Step

Messages = list[dict[str, Any]]


def pretrain_tiny(
    folder: Path,
    student: ThreeStageEpisode,
    examples: Sequence[dspy.Example],
    *,
    steps: int = 600,
    mistakes: float = 0.3,
    learning_rate: float = 5e-3,
    max_tokens: int = 2048,
    hidden: int = 64,
    layers: int = 2,
    heads: int = 2,
    seed: int = 0,
    on_step: Callable[[dict[str, object]], None] | None = None,
) -> Path:
    """Train a tiny Llama from nothing and return the folder of its weights; the student is not changed.

    Args:
        folder: where it is written.
        student: the episode that it will play; its agent's wording and limits decide the prompts. The signature
            must have one text output.
        examples: annotated.
        steps: optimizer steps.
        mistakes: share of decisions, from 0 to below 1, made carelessly: nothing is stored (of small talk, all), a
            distractor stays, the answer comes without looking. Over one half, that is the likelier choice.
        learning_rate: highest; it rises for 20 steps and falls along a cosine.
        max_tokens: most padded tokens of one step, without the system prompt.
        hidden, layers, heads: see `tiny_llama`.
        seed: of weights, mistakes and order.
        on_step: called with {"phase", "step", "steps", "loss", "seconds"}; the loss is in nats a token.

    Raises:
        ConfigurationError: no examples, or an option out of range.
        DataError: an example without `operations`.
    """
    if not examples or min(steps, max_tokens) < 1 or not 0 <= mistakes < 1 or learning_rate <= 0:
        raise ConfigurationError("pretraining needs examples, positive steps and rates, and mistakes from 0 to below 1")
    started = time.perf_counter()
    played = _play(student, examples, mistakes, seed)
    corpus = [message["content"] for calls in played for message in calls[-1][0]]
    corpus += [text for calls in played for _, text in calls]
    tiny_llama(folder, corpus=corpus, vocab_size=2048, hidden=hidden, layers=layers, heads=heads, seed=seed)
    engine = PolicyEngine(load(folder, device="cpu"))
    rows = pack([[_sample(engine, prompt, text) for prompt, text in calls] for calls in played])
    for step, loss in enumerate(_train(engine.model.train(), _stream(rows, max_tokens, seed), steps, learning_rate), 1):
        if on_step is not None:
            seconds = time.perf_counter() - started
            on_step({"phase": "pretrain", "step": step, "steps": steps, "loss": loss, "seconds": seconds})
    with quiet_bars():
        engine.model.save_pretrained(folder)
    return Path(folder)


# What is learned from


def _play(
    student: ThreeStageEpisode, examples: Sequence[dspy.Example], mistakes: float, seed: int
) -> list[list[tuple[Messages, str]]]:
    """Play each example carelessly and return every step as (prompt messages, completion text)."""
    episode = copy.deepcopy(student)
    agent, source = episode.agent, random.Random(seed)
    # The demonstrator filters by a message's own text, so any embedder will do; this one costs nothing.
    agent._memory = LongTermMemory.open(":memory:", embedder=HashEmbedder())
    tools = agent.session(agent.memory).toolkit.tools
    signature = agent.step.signature
    adapter = agent.adapter or CompactAdapter()
    (output,) = agent.signature.output_fields
    played = []
    for example in examples:
        if "operations" not in example:
            raise DataError(f"example {example.get('id', '?')!r} has no gold `operations`; pretraining needs them")
        outputs = within_tools(careless_outputs(example, mistakes, source), agent.memory_tools, ["answer"])
        agent.step = Script(({output if k == "answer" else k: v for k, v in o.items()} for o in outputs), signature)
        steps = episode(**example.inputs()).trajectory.steps
        played.append([_rendered(step, adapter, signature, tools) for step in steps])
    return played


def _rendered(
    step: Step, adapter: dspy.Adapter, signature: type[dspy.Signature], tools: list[dspy.Tool]
) -> tuple[Messages, str]:
    inputs = {"context": Transcript(messages=[dict(m) for m in step.context]), "tools": tools}
    calls = [{"name": call["name"], "args": call["arguments"]} for call in step.output["tool_calls"]]
    outputs = {"reasoning": "", "tool_calls": dspy.ToolCalls.from_dict_list(calls), **(step.output["answer"] or {})}
    return adapter.format(signature, [], inputs), adapter.format_assistant_message_content(signature, outputs)


def _sample(engine: PolicyEngine, prompt: Messages, text: str) -> Sample:
    completion = engine.encode_completion(text)
    return Sample(
        prompt_ids=engine.render(prompt),
        completion_ids=completion,
        logprobs=np.zeros(len(completion)),
        advantage=1.0,
        weight=1.0,
    )


# How it is learned


def _stream(rows: list[Row], max_tokens: int, seed: int) -> Iterator[list[Row]]:
    """Yield micro-batches of similar length for ever, every row once a pass."""
    source, prefix = random.Random(seed), shared_prefix(rows)
    while True:
        source.shuffle(rows)
        order = batches(rows, max_tokens, prefix)
        source.shuffle(order)
        yield from order


def _train(model: PreTrainedModel, stream: Iterator[list[Row]], steps: int, learning_rate: float) -> Iterator[float]:
    """Train all weights and yield each step's loss.

    The matrices of the blocks are trained with Muon (Jordan 2024), which needs half the steps that AdamW alone would.
    """
    matrices = {p: torch.zeros_like(p) for name, p in model.named_parameters() if p.ndim == 2 and ".layers." in name}
    others = [p for p in model.parameters() if p not in matrices]
    optimizer = torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0.0)
    for step in range(steps):
        loss = -_logprobs(model, next(stream)).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        rate = min(1.0, (step + 1) / 20) * (0.55 + 0.45 * math.cos(math.pi * step / steps)) * learning_rate
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        _muon_step(matrices, 4 * rate)
        model.zero_grad()
        yield float(loss.detach())


@torch.no_grad()
def _muon_step(momenta: Mapping[torch.nn.Parameter, torch.Tensor], rate: float) -> None:
    """Move each matrix along its momentum, made orthogonal by five Newton-Schulz iterations.

    In float32: `torch.optim.Muon` iterates in bfloat16, which takes a CPU ten times as long.
    """
    for matrix, momentum in momenta.items():
        if matrix.grad is None:
            continue
        momentum.lerp_(matrix.grad, 0.05)
        direction = matrix.grad.lerp(momentum, 0.95)
        tall = direction.shape[0] > direction.shape[1]
        x = direction.T if tall else direction
        x = x / (x.norm() + 1e-7)
        for _ in range(5):
            square = x @ x.T
            x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
        scale = max(1.0, direction.shape[0] / direction.shape[1]) ** 0.5
        matrix.sub_(rate * scale * (x.T if tall else x))


def _logprobs(model: Any, rows: Sequence[Row]) -> torch.Tensor:
    """Return the log-probabilities of all completion tokens, (tokens,); the common prefix is computed once."""
    prefix, longest = shared_prefix(rows), max(len(row.ids) for row in rows)
    ids = torch.zeros((len(rows), longest - 1 - prefix), dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row.ids) - 1 - prefix] = torch.from_numpy(row.ids[prefix:-1].copy())
    cache = model.model(input_ids=torch.from_numpy(rows[0].ids[:prefix].copy())[None], use_cache=True).past_key_values
    for layer in cache.layers:
        layer.keys, layer.values = (tensor.expand(len(rows), -1, -1, -1) for tensor in (layer.keys, layer.values))
    hidden = model.model(
        input_ids=ids,
        attention_mask=torch.ones((longest - 1 - prefix, longest - 1), dtype=torch.bool).tril(prefix)[None, None],
        position_ids=torch.arange(prefix, longest - 1)[None].expand(len(rows), -1),
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state
    spans = [
        (i, start - 1 - prefix, sample.completion_ids)
        for i, row in enumerate(rows)
        for start, sample in zip(row.starts, row.samples, strict=True)
    ]
    states = torch.cat([hidden[i, start : start + len(wanted)] for i, start, wanted in spans])
    wanted = torch.from_numpy(np.concatenate([wanted for _, _, wanted in spans]))
    return -torch.nn.functional.cross_entropy(model.lm_head(states), wanted, reduction="none")
