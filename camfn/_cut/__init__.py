"""The cut: a private copy of a network, taken apart at a layer, and what follows from the two sides."""
