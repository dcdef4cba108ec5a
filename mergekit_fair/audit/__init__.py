"""What a merge did, against its base and every parent."""
