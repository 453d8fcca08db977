"""Artifacts: folders and files with manifests. They are written whole and checked when opened.

`manifest.py`: what an artifact states of its files, inputs and parameters; files of results.
`artifact.py`: opens artifacts, and makes them from drafts.
`claims.py`: locks that name the process which works on something.
"""
