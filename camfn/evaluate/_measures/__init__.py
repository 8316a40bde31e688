"""One row: a photo explained by a case, and the metrics of its map."""
