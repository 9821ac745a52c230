"""Methods for linear heads on propagated features, with certificates."""
