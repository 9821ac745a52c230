"""Estimators of training influence: the change had the model been trained without an item."""
