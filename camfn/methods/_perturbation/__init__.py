"""Methods that change channels or places of the activations, or mask the input by them, and run the network again."""
