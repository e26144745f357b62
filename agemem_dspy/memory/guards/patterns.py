"""Many regular expressions over one text, at little more than the price of looking for their words.

RE2's filter finds, in one pass, which expressions have the words that a match needs; only those are tried. An ordinary
text needs some microseconds for several hundred expressions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import re2

_LOOKAROUND = re.compile(r"\(\?<?[!=]")


class Patterns:
    """Named expressions, several to a name. They match line by line: `^` is the beginning of any line."""

    def __init__(self, expressions: Iterable[tuple[str, str]]) -> None:
        """Compile (name, expression) pairs, written for `re` and for text in small letters."""
        self._exact = [(name, re.compile(expression, re.MULTILINE)) for name, expression in expressions]
        self._words = re2.Filter()
        for _, pattern in self._exact:
            self._words.Add(f"(?m){without_lookaround(pattern.pattern)}")
        self._words.Compile()

    def search(self, text: str) -> Iterator[str]:
        """Yield the names of the expressions that are found in a text, each once, in the order they were given."""
        found = set()
        for index in sorted(self._words.Match(text, potential=True) or ()):
            name, pattern = self._exact[index]
            if name not in found and pattern.search(text):
                found.add(name)
                yield name


def without_lookaround(expression: str) -> str:
    """Return an expression that finds at least as much, for RE2, which knows no lookaround."""
    kept, rest = "", expression
    while opening := _LOOKAROUND.search(rest):
        kept += rest[: opening.start()]
        rest = rest[_end_of_group(rest, opening.end()) :]
    return kept + rest


def _end_of_group(expression: str, start: int) -> int:
    """Return where the group ends whose inside begins at `start`; a bracket in a class or escaped is none."""
    depth, in_class, index = 1, False, start
    while depth:
        sign = expression[index]
        if sign == "\\":
            index += 1
        elif in_class:
            in_class = sign != "]"
        elif sign == "[":
            in_class = True
        else:
            depth += (sign == "(") - (sign == ")")
        index += 1
    return index
