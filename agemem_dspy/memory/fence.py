"""The fence around stored text in a prompt: one line a memory, which nothing inside can end or pass off as a mark.

A line that begins with an id (`m1:`) is a memory up to its end, so the fence costs an ordinary memory no token and
leaves the text that policies were trained on as it is.
"""

from __future__ import annotations

import re

LINE_END = re.compile(r"\r\n|[\n\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")  # what ends a line for some reader
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")  # what no reader should act on
# What turns text round or is not seen at all: bidirectional controls and tag characters.
_UNSEEN = re.compile(r"[\u202a-\u202e\u2066-\u2069\U000e0000-\U000e007f]")
# Openings of what prompts are built of: <tag>, </tag>, <|special|>, <<SYS>>, [[ ## field ## ]], [INST].
_MARK = re.compile(r"(<(?=[/|<!?A-Za-z])|\[(?=\[|/?[A-Z]+\]))")


def fenced(text: str) -> str:
    r"""Return a stored text as one line of data: line ends become `\n`, marks of a prompt lose their shape.

    Text without line ends, control characters and marks is returned as it is.
    """
    line = _CONTROL.sub(" ", LINE_END.sub(r"\\n", _UNSEEN.sub("", text)))
    return _MARK.sub(r"\1 ", line)
