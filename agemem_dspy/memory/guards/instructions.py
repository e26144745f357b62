"""Orders in place of facts: a memory that tells the model what to do, or imitates the marks of its prompt.

Patterns catch what is said in words they know (`lexicon`), in nine languages, under the disguises that `disguise` takes
off. They cannot tell a false fact from a true one, a wish of the user's from a stranger's that is worded alike, or an
order in a language, a paraphrase or a cipher that is not listed; `benchmarks/poisoning.py` measures how many pass.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from agemem_dspy.errors import ConfigurationError
from agemem_dspy.memory.guards.disguise import plain, readings
from agemem_dspy.memory.guards.lexicon import LANGUAGES, Words
from agemem_dspy.memory.guards.patterns import Patterns
from agemem_dspy.memory.guards.verdict import GuardContext, Verdict
from agemem_dspy.types import Memory

KINDS = {
    "override": "it revokes instructions",
    "persona": "it gives the assistant another role",
    "marks": "it imitates a role, a tool call or another mark of the prompt",
    "exfiltrate": "it asks to give stored or secret things away",
    "erase": "it asks to remove memories",
    "conceal": "it asks to keep something from the user",
    "steer": "it tells the assistant what to say or to recommend",
}
OWN_WISHES = frozenset({"steer", "conceal", "erase"})  # what a user may well want; from others it is an attack

_ROLES = (
    "system|assistant|user|human|developer|ai|benutzer|nutzer|assistent|systeme|utilisateur|sistema|usuario|asistente|"
    "utente|assistente|usuario|система|пользователь|ассистент|系统|用户|助手|システム|ユーザー|アシスタント"
)
# Written over `plain` text, in which all letters are small.
_MARKS = (
    rf"(?<=\n)[\W_]{{0,9}}(?:{_ROLES})(?: (?:message|prompt))?[\W_]{{0,3}}[:\]>]",
    r"\A[\W_]{0,9}(?:system|developer|система|系统|システム|systeme|sistema)(?: (?:message|prompt))?[\W_]{0,3}[:\]>]",
    r"</?\s*(?:tool_call|tool_response|answer|think|system|assistant|user|instructions?|memory|data|context)\b[^>\n]{0,40}>",
    r"<\|[^|\n]{1,40}\|>|<<\s*/?\s*sys\s*>>|\[/?(?:inst|system|assistant|user|developer)\]|\[\[ ?## ?\w+ ?## ?\]\]",
    r"\b(?:begin|end|start of|end of)\b[\W_]{0,3}(?:the )?(?:system )?(?:prompt|instructions)\b",
    r"^#{2,}\s*(?:instruction|system|response|input|user|assistant)s?\b",
    r"""["']name["']\s*:\s*["']\w+["']\s*,\s*["'](?:arguments|args|parameters)["']""",
    r"\b(?:add|update|delete|retrieve)_memory\b|\b(?:summarize|summary|filter)_context\b",
    r"<!--",
    r"\nm\d+:",
)
_ADDRESS = r"(?:[\w.+-]+@[\w-]+\.\w|https?://|to (?:anyone|whoever|everyone|everybody)\b)"
_IMAGE = r"!\[[^\]\n]*\]\(\s*https?://[^)\n]*[?&=]"
_GAP = r"[^.!?\n。！？]{0,60}?"
_WIDE = r"[^\n]{0,80}?"


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantineInstructions:
    """Quarantine a memory that gives orders.

    `OWN_WISHES` are let pass in the words of somebody trusted: a user may say "never suggest fish when people ask".

    Args:
        kinds: what to look for, some of `KINDS`.
        longest: most characters of a text that is looked through; a longer one is quarantined unread, so that nobody
            hides an order in it or stalls the search for one.

    Raises:
        ConfigurationError: an unknown kind, or no characters.
    """

    kinds: frozenset[str] = frozenset(KINDS)
    longest: int = 10_000

    def __post_init__(self) -> None:
        unknown = set(self.kinds) - set(KINDS)
        if unknown:
            raise ConfigurationError(f"QuarantineInstructions knows {', '.join(KINDS)}, not {sorted(unknown)[0]!r}")
        if self.longest < 1:
            raise ConfigurationError("QuarantineInstructions: `longest` is a number of characters, at least 1")

    def __call__(self, memory: Memory, context: GuardContext) -> Verdict:
        """Judge one memory, its labels too."""
        trusted = context.provenance.trust == "trusted"
        for text in (memory.content, memory.memory_type, *_texts(dict(memory.metadata))):
            if len(text) > self.longest:
                return Verdict(action="quarantine", reason=f"it is longer than {self.longest:,} characters")
            for kind in orders(text):
                if kind in self.kinds and not (trusted and kind in OWN_WISHES):
                    return Verdict(action="quarantine", reason=KINDS[kind])
        return Verdict()


def orders(text: str) -> Iterator[str]:
    """Yield the kinds of orders that a text gives, under any disguise."""
    for reading in readings(text):
        yield from _patterns().search(reading)


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _texts(key)
            yield from _texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)


def _grammar(words: Words) -> dict[str, list[str]]:
    """Return how one language words each kind of order: its words, in either order where grammar allows both."""
    person = rf"(?!{_GAP}{words.mine})"
    return {
        "override": [
            words.prior,
            f"{words.drop}{_GAP}{words.rules}",
            f"{words.rules}{_GAP}(?:{words.drop}|{words.void})",
            f"{words.obey}{_GAP}{words.here}",
            f"{words.here}{_GAP}{words.obey}",
        ],
        "persona": [words.persona],
        "exfiltrate": [
            f"{words.send}{_GAP}{words.secrets}{_WIDE}{_ADDRESS}",
            f"{words.secrets}{_WIDE}(?:{words.send}|{words.reveal}){_WIDE}{_ADDRESS}",
            f"{words.secrets}{_WIDE}{_ADDRESS}{_WIDE}{words.send}",
            f"{words.reveal}{_GAP}{words.secrets}",
        ],
        "erase": [f"{words.erase}{_GAP}{words.entries}", f"{words.entries}{_GAP}{words.erase}"],
        "conceal": [words.conceal],
        "steer": [
            rf"(?:\A|[.!?;,:\n。！？、，]\s*|\bplease ){words.always}\s*{words.speech}{person}",
            rf"(?:\A|[.!?;,:\n。！？、，]\s*|\bplease ){words.speech}\s*{words.always}{person}",
            f"{words.asked}{_WIDE}{words.speech}{person}",
            f"{words.speech}{_WIDE}{words.asked}{person}",
        ],
    }


@cache
def _patterns() -> Patterns:
    """Return everything that is looked for, over the text that `plain` returns; the lexicon goes the same way."""
    found = [("marks", mark) for mark in _MARKS] + [("exfiltrate", _IMAGE)]
    for words in LANGUAGES:
        found += [(kind, wording) for kind, wordings in _grammar(words).items() for wording in wordings]
    return Patterns((kind, _PIECE.sub(_as_plain, wording)) for kind, wording in found)


def _as_plain(piece: re.Match[str]) -> str:
    return piece[0] if piece[0].startswith("\\") else plain(piece[0])


_PIECE = re.compile(r"\\.|[^\\]+")  # an escape such as \W, which is no letter, or what stands between
