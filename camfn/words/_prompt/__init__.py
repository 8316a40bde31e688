"""What one call is about: the prompt with its pictures, where these stand, the answer and its words."""
