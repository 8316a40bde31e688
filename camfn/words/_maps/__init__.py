"""A map of every picture for every word of an answer, by each kind of method."""
