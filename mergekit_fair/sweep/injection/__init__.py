"""Injecting group vectors into a baseline.

stage      the worst group, named groups, or safe ones
safe       steps, verdicts and the greedy search, on the engine
transfer   what a step along one group's vector does to every group
effects    its intervals
verdicts   safe, unsafe, unproven
"""
