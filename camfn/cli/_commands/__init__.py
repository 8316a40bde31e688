"""The commands: each has its options, checks them, and starts a run."""
