"""A model by its name: the builder is found, weights are filled in, and photos are prepared as the user asked."""
