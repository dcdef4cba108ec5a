"""T task vectors kept as M < T basis vectors and a small matrix (arXiv 2502.01015, METHODS §3).

`fit` solves for the coefficients from the Gram matrix alone, `build` writes the basis vectors as
ordinary checkpoints θ₀ + s_m, `apply` turns a recipe over tasks into one over basis vectors.
"""
