"""Find how a layer lays out the space of the image: list the possible readings, and decide among them by facts."""
