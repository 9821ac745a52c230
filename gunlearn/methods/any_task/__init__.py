"""Methods that run on every task."""
