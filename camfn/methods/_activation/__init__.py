"""Methods that read the activations: weights of the head, thresholds, principal components."""
