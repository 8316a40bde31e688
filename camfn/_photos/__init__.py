"""Photos explained from words: what the command line and `evaluate` share."""
