"""What a terminal shows: progress, lines, errors and tables."""
