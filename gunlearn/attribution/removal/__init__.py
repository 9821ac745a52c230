"""The model stays, the graph it reads changes: estimators of that."""
