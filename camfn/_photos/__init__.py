"""Explain photos with a model, method, layer and classes given as words: shared by the command line and `evaluate`."""
