"""Builders: a network of each library, and of a user's own, with its preprocessing."""
