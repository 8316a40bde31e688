"""A folder of results: rows in a database, maps, and what people and other programs read."""
