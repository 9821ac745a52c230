"""Tasks whose model reads a graph."""
