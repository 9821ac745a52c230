"""Comparison of estimators with the true influence."""
