"""What the rows say: ranks, intervals, tests, tables, plots and the report."""
