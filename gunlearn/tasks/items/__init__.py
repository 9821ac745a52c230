"""Tasks of independent items."""
