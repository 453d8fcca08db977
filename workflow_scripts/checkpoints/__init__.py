"""Model folders on disk: streaming safetensors, manifests, artifacts that are whole or absent."""
