"""Methods that hide parts of the input and read the score alone."""
