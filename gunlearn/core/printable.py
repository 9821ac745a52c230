"""Texts of others (names of data sets, columns, errors) made safe to print."""

import re

# Control characters but tab and newline, which could drive a terminal, and marks that reverse the direction of a line.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")

_STYLE = re.compile(r"\x1b\[[0-9;]*m")  # bold, colours: torch writes its errors in them
_REASON = re.compile(r"WeightsUnpickler error: (.+?)(?:\. |\n|$)")  # stands after advice to run the code in the file


def reason_of(error: BaseException) -> str:
    """Return the reason, on one line, in an error of a reader of files, without styles of a terminal."""
    text = _STYLE.sub("", str(error))
    reason = _REASON.search(text)
    return reason[1].strip() if reason else text.partition("\n")[0].strip()


def printable(text: str) -> str:
    r"""Return the text with control characters and marks of direction written out: an escape becomes `\x1b`."""
    return _UNSAFE.sub(lambda found: ascii(found.group())[1:-1], text)
