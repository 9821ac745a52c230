"""Peak memory of forgetting images that are loaded when they are read."""
