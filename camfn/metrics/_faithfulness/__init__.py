"""Whether a map says what the score depends on: what is lost, or won, as parts of the image go or come back."""
