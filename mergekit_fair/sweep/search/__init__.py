"""Budgeted search over per-subgroup λ: pure proposers, which know no model, and the stage.

proposers      the box of λs, what was seen in it, the protocol, random points
tpe            Optuna's sampler
level_model    the selection rate near the level, and the start there
surrogate      modelled rates (rate_model), Thompson sampling
pareto         fronts and hypervolumes
search_stage   the search itself
"""
