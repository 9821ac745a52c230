"""Estimators of removal influence: the same model reads a graph without the item."""
