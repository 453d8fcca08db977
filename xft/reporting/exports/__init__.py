"""Evaluations in the forms of other software.

Each module has `export(evaluations, out)`: it writes below the folder `out`, and yields the files.
"""
