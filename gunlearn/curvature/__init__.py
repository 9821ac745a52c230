"""Products with curvature, solvers, Fisher information: what second-order methods and influence share."""
