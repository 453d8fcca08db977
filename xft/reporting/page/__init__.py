"""The report of a run: one HTML file with tables and charts, which needs no network."""
