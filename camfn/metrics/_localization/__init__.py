"""Whether a map lies where the object is."""
