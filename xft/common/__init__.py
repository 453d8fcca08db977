"""Helpers for all packages: errors, progress, optional packages, devices."""
