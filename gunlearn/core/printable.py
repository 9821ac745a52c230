"""Texts of others (names of data sets, columns, errors) made safe to print."""

import re

# Control characters but tab and newline, which could drive a terminal, and marks that reverse the direction of a line.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    r"""Return the text with control characters and marks of direction written out: an escape becomes `\x1b`."""
    return _UNSAFE.sub(lambda found: ascii(found.group())[1:-1], text)
