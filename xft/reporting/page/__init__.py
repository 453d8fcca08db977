"""The report of a run: one HTML file with tables and charts, which needs no network.

`folder` reads a results folder, `parts` chooses what its sections show, `charts` fills the
specifications in `vega/`, and `page` builds the HTML and the pictures.
"""
