"""Checkpoints: the folders of models, without a model in memory.

`header.py`: the header of a safetensors file, and number types. `model_files.py`: config.json,
tokenizer and card. `reader.py` reads tensors, `writer.py` writes them one by one. `layout.py` knows
the names of the MLPs' tensors. `in_memory.py`: a loaded model in the form of a checkpoint.
"""
