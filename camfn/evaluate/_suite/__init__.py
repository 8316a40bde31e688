"""The suite "truth": maps where the right answer is known, and a grade for every metric."""
