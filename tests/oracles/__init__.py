"""Naive float64 loops over the equations of the papers, which the methods are held to."""
