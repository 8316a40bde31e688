"""Methods that are arithmetic on activations and gradients, and on gradients of the tail along a line."""
