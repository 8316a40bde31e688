"""Weights of files and libraries: fetched, read, and fitted to a network; exported programs."""
