"""A text without its disguises: what a language model may read in it, though a pattern would not."""

from __future__ import annotations

import base64
import codecs
import html
import re
import unicodedata
import urllib.parse
from collections.abc import Iterator

from agemem_dspy.memory.fence import LINE_END

# Letters that look like Latin ones, after casefolding: Cyrillic, Greek, others.
_ALIKE = str.maketrans(
    dict(zip("аеорсухіјѕԁһӏԛԝвкмнтг", "aeopcyxijsdhlqwbkmhtr", strict=True))
    | dict(zip("αορενικτχγυωβδη", "aopeviktxyuwbdn", strict=True))
    | dict(zip("ıɡɑǃ", "igai", strict=True))
)
_DIGITS = str.maketrans("013457@$!", "oieastasi")
_UNSEEN = ("Cc", "Cf", "Cn", "Co", "Cs", "Mn", "Me")  # controls, zero-width, tags, accents and other combining marks

_WORD = re.compile(r"\w+")
_SPELT = re.compile(r"[\w@$!]+")
_SPACED = re.compile(r"(?<!\w)\w([ .\-*|/])(?:\w\1)+\w(?!\w)")
_TAGS = re.compile(r"[\U000e0020-\U000e007e]+")
_HEX = re.compile(r"(?:[0-9A-Fa-f]{2}){8,}")
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{16,}")
_ESCAPED = re.compile(r"\\u([0-9A-Fa-f]{4})|\\x([0-9A-Fa-f]{2})")
_MOST = 8  # encoded runs that are looked into


def plain(text: str) -> str:
    r"""Return a text in compatibility form and folded case, without accents and what is not seen; lines end in `\n`."""
    lines = LINE_END.sub("\n", text.replace("\t", " "))
    if not lines.isascii():
        lines = unicodedata.normalize("NFKD", lines)
    if not lines.isascii() or not lines.replace("\n", "").isprintable():
        lines = "".join(sign for sign in lines if sign == "\n" or unicodedata.category(sign) not in _UNSEEN)
    return lines.casefold()


def readings(text: str) -> Iterator[str]:
    """Yield the text as it is seen (`plain`), then, where they differ, the readings under its disguises.

    Those are: hidden tag characters, look-alike letters, digits for letters, letters set apart, the text backwards and
    in ROT13, and what base64, hexadecimal, percent, HTML and escape codes stand for. One level: nothing is decoded
    twice.
    """
    seen = plain(text)
    known = {seen, ""}
    yield seen
    for other in _disguised(text, seen):
        reading = plain(other)
        if reading not in known:
            known.add(reading)
            yield reading


def _disguised(text: str, seen: str) -> Iterator[str]:
    yield codecs.encode(seen, "rot13")
    yield seen[::-1]
    yield _SPACED.sub(lambda run: run[0].replace(run[1], ""), seen)
    yield _SPELT.sub(_in_letters, seen)
    if not seen.isascii():
        yield _WORD.sub(_latin, seen)
    for run in _TAGS.finditer(text):
        yield "".join(chr(ord(tag) - 0xE0000) for tag in run[0])
    if "%" in text:
        yield urllib.parse.unquote(text)
    if "&" in text:
        yield html.unescape(text)
    if "\\" in text:
        yield _ESCAPED.sub(lambda code: chr(int(code[1] or code[2], 16)), text)
    for run, _ in zip(_HEX.finditer(text), range(_MOST), strict=False):
        yield bytes.fromhex(run[0]).decode("utf-8", "ignore")
    for run, _ in zip(_BASE64.finditer(text), range(_MOST), strict=False):
        yield _from_base64(run[0])


def _in_letters(word: re.Match[str]) -> str:
    """Return a word with its digits and signs as the letters that they look like; one without letters as it is."""
    return word[0].translate(_DIGITS) if re.search("[a-z]", word[0]) else word[0]


def _latin(word: re.Match[str]) -> str:
    """Return a word with its look-alikes as Latin letters, unless others are left."""
    latin = word[0].translate(_ALIKE)
    return latin if latin.isascii() else word[0]


def _from_base64(run: str) -> str:
    """Return what a run of base64 stands for, empty where that is no text."""
    standard = run.replace("-", "+").replace("_", "/")
    whole = standard[: len(standard) - (len(standard) % 4 == 1)]
    try:
        return base64.b64decode(whole + "=" * (-len(whole) % 4)).decode("utf-8")
    except ValueError:
        return ""
