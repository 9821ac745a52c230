"""Products with curvature, solvers and Fisher information, for second-order methods and influence."""
