"""Fair heads: task vectors in the last layer of a classifier, fitted and written as a merge."""
