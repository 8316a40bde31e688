"""How a photo becomes a network's input, and which part of it the network sees."""
