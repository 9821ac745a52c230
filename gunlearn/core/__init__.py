"""Registries, options, checks of arguments and lazy imports, for all of the package."""
