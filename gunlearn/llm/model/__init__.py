"""Causal language models: task, head, adapters."""
