"""The model would have been trained without an item: estimators of that."""
