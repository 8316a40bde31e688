"""What a run writes: names of files, records, pictures, a figure."""
