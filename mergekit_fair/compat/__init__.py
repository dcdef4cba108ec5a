"""Every private name of other packages that this one uses, in one module a package.

Each function says why no public name serves; `tests/compat` has a test for each, which says what
breaks when the name moves.
"""
