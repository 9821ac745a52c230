"""Methods made for language models."""
