"""Calls with wrong and unusual arguments; see README.md in this folder."""
