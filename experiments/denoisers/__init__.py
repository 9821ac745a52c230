"""What the studies of diffusion models share: models that are kept in files, methods, figures and tables."""
