"""The models of the workflow: upcycled models with their MoE blocks, and mixing models."""
