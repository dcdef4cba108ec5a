"""Racing a grid: points are stopped early that have no chance to be chosen.

predictive   what the rows that are not measured yet will say
judgement    the rule, applied in many such draws
standings    who goes on
stage        the race itself, on the engine
"""
