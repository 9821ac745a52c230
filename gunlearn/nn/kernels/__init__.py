"""Sparse products, the fast path, subgraphs, and memoised values."""
