"""Methods that take one step by inverse curvature."""
