"""What one run shows of a network's layers: which are maps of scores, which are inside a detector's head."""
