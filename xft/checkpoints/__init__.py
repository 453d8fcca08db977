"""Reads and writes the safetensors files of model folders."""
