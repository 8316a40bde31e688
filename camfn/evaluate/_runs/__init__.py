"""The rows that are due, and who makes them: this process, others of this machine, or actors of Ray."""
