"""Tests of the check of a map."""
