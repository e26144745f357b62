"""A Llama small enough for a test: random weights, a tokenizer trained on the spot, an ordinary transformers folder.

With the default sizes it has 0.2 M parameters, is built in about a second, and learns the easiest episodes in a
minute on one core. It exists so that every joint that a real model passes through is exercised without a download.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from agemem_dspy.errors import ConfigurationError
from agemem_dspy.policy.sources import quiet_bars

PAD_TOKEN = "<|endoftext|>"
START_TOKEN = "<|im_start|>"
END_TOKEN = "<|im_end|>"

# One token each, so that the format costs a tiny model little; not special, so that decoding keeps them.
TAGS = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<answer>", "</answer>")

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

_BYTES = 256


def tiny_llama(
    folder: Path | str,
    *,
    corpus: Iterable[str],
    hidden: int = 64,
    layers: int = 2,
    heads: int = 4,
    vocab_size: int = 1024,
    max_positions: int = 8192,
    seed: int = 0,
) -> Path:
    """Build and save a randomly initialised Llama with a byte-level BPE tokenizer; the same seed gives the same files.

    Args:
        folder: where the transformers folder is written; created when missing.
        corpus: texts that the tokenizer's merges are learnt from, in the style that the model will read.
        hidden: width; a multiple of `2 * heads`.
        layers: number of blocks.
        heads: attention heads.
        vocab_size: largest number of tokens, the 256 bytes and the markers included.
        max_positions: longest sequence in tokens.
        seed: of the weights; torch's global generator is left as it was.

    Raises:
        ConfigurationError: sizes that cannot be built, or an empty corpus.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    smallest = _BYTES + len(TAGS) + 3
    if vocab_size < smallest:
        raise ConfigurationError(f"vocab_size must be at least {smallest} (bytes and markers), got {vocab_size}")
    if min(hidden, layers, heads) < 1 or hidden % (2 * heads):
        raise ConfigurationError(f"hidden must be a positive multiple of 2 * heads, got hidden={hidden}, heads={heads}")
    texts = list(corpus)
    if not any(texts):
        raise ConfigurationError("the corpus is empty; give the texts that the model will read")

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_train_tokenizer(texts, vocab_size),
        bos_token=START_TOKEN,
        eos_token=END_TOKEN,
        pad_token=PAD_TOKEN,
        clean_up_tokenization_spaces=False,
        model_max_length=max_positions,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=max_positions,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    with quiet_bars():
        model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    return target


def _train_tokenizer(texts: list[str], vocab_size: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    # Digits stand alone, as in SmolLM2: a number that was never seen is spelt like one that was.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size - len(TAGS),
            special_tokens=[PAD_TOKEN, START_TOKEN, END_TOKEN],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in TAGS])
    return tokenizer
