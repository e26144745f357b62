"""What nobody should find in a memory: keys, passwords, card numbers. Found by libraries, put out of the text.

Tokens and keys by the patterns of detect-secrets, the check digits of cards and IBANs by python-stdnum. A password is
found where it is called one: "password: …", or "… is …" and then something that is no plain word.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from stdnum import iban, luhn

from agemem_dspy.errors import ConfigurationError
from agemem_dspy.memory.guards.verdict import GuardContext, Verdict
from agemem_dspy.types import Memory

_PRIVATE_KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY[A-Z ]*-----.*?(?:-----END [A-Z ]*-----|\Z)", re.DOTALL)
_CALLED = (
    r"(?:pass(?:word|phrase|code)|passwort|kennwort|mot de passe|contraseña|senha|wachtwoord|parola d'ordine|пароль|"
    r"密码|密碼|パスワード|api[ _-]?key|secret key|access token)"
)
_PASSWORD = re.compile(
    rf"(?i:{_CALLED})\w{{0,9}}\s{{0,9}}(?:[:=：]\s*[\"'“]?(?P<given>[^\s\"'”]{{3,}})"
    r"|(?:\s(?i:is|ist|est|es|é|è|to)|[是は为為—])\s*[\"'“]?(?P<said>(?=[^\s]*[\d!@#$%^&*_+=])[^\s\"'”]{4,}))"
)
_CARD = re.compile(r"(?<![\w.-])[2-6](?:[ -]?[0-9]){12,18}(?![\w-])")
_IBAN = re.compile(r"\b[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]){11,30}\b")
_PIECE = re.compile(r".{1,1000}(?=\s|\Z)|.{1,1000}", re.DOTALL)
_LONG_WORD = re.compile(r"\S{10}")  # no token worth hiding is shorter
_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]+@[\w-]+(?:\.[\w-]+)+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Redact:
    """Put a word in brackets in place of what is found, in the content, the metadata and the history's `by`.

    Args:
        kinds: some of "secrets", "passwords", "cards", "ibans", "emails". An assistant may well be asked to remember
            an e-mail address or an account, so those two are left unless they are named.

    Raises:
        ConfigurationError: an unknown kind, or none.
    """

    kinds: tuple[str, ...] = ("secrets", "passwords", "cards")

    def __post_init__(self) -> None:
        unknown = [kind for kind in self.kinds if kind not in _REDACTIONS]
        if unknown or not self.kinds:
            raise ConfigurationError(f"Redact takes kinds out of {', '.join(_REDACTIONS)}, not {self.kinds!r}")

    def __call__(self, memory: Memory, context: GuardContext) -> Verdict:
        """Judge one memory: it is always allowed, without what was found."""
        before = (memory.content, dict(memory.metadata), dict(context.by))
        content, metadata, by = after = (self._clean(before[0]), self._clean(before[1]), self._clean(before[2]))
        return Verdict() if after == before else Verdict(content=content, metadata=metadata, by=by)

    def text(self, text: str) -> str:
        """Return a text without what is found in it."""
        for kind in self.kinds:
            text = _REDACTIONS[kind](text)
        return text

    def _clean(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {key: self._clean(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._clean(item) for item in value]
        return value


def _secrets(text: str) -> str:
    # Piece by piece, between words where it can be: some of the library's patterns take the square of a text's length.
    return _PIECE.sub(_without_tokens, _PRIVATE_KEY.sub("[secret]", text))


def _without_tokens(piece: re.Match[str]) -> str:
    text = piece[0]
    if not _LONG_WORD.search(text):
        return text
    for pattern in _token_patterns():
        text = pattern.sub("[secret]", text)
    return text


def _passwords(text: str) -> str:
    return _PASSWORD.sub(_without_password, text)


def _without_password(found: re.Match[str]) -> str:
    start = max(found.start("given"), found.start("said")) - found.start()  # -1 where a group has no part in it
    return f"{found[0][:start]}[password]"


def _cards(text: str) -> str:
    return _CARD.sub(lambda found: "[card]" if luhn.is_valid(re.sub(r"[ -]", "", found[0])) else found[0], text)


def _ibans(text: str) -> str:
    return _IBAN.sub(lambda found: "[iban]" if iban.is_valid(found[0]) else found[0], text)


def _emails(text: str) -> str:
    return _EMAIL.sub("[email]", text)


_REDACTIONS: Mapping[str, Callable[[str], str]] = {
    "secrets": _secrets,
    "passwords": _passwords,
    "cards": _cards,
    "ibans": _ibans,
    "emails": _emails,
}


@cache
def _token_patterns() -> tuple[re.Pattern[str], ...]:
    """Return the patterns of all tokens that detect-secrets knows; an IP address is no secret."""
    from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
    from detect_secrets.plugins.base import RegexBasedDetector
    from detect_secrets.plugins.ip_public import IPPublicDetector

    known: Iterable[Any] = get_mapping_from_secret_type_to_class().values()
    detectors = [one() for one in known if issubclass(one, RegexBasedDetector) and one is not IPPublicDetector]
    return tuple(pattern for detector in detectors for pattern in detector.denylist)
