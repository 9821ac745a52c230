"""Layers of this package."""
