"""Whether a map moves more than the image does."""
