"""How a layer lays out the space of the image: the possible readings, and the facts that decide among them."""
