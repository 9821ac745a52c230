"""What every room uses: registries, options, checks of arguments, names that load on first use."""
