"""Artifacts: folders and files with manifests. They are written whole and checked when opened."""
