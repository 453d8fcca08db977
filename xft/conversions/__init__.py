"""Conversions between dense and upcycled checkpoints, as lists of tensors to write.

No conversion loads a model: tensors are read through memory maps and written one by one.
`upcycle.py` is step 1. `coefficients.py` has alpha, lambda and what follows from them (steps 4 to
6), `merged_tensors.py` the sums over experts, `dense_models.py` step 7 and the soup.
`expert_diversity.py` measures how far experts have moved apart.
"""
