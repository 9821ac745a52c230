"""Sparse products, the fast path, subgraphs, and memory of derived values."""
