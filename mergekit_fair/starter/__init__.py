"""`new`: commented data, train and sweep files for a table of one's own."""
