"""Whether a map changes with what it should depend on: the parameters, the class."""
