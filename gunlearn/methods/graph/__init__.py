"""Methods that need a graph."""
