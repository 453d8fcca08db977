"""Checkpoints: the folders of models, without a model in memory.

`model_files.py`: config.json, headers of safetensors, number types, tokenizer and card. `reader.py`
reads tensors, `writer.py` writes them one by one. `layout.py` knows the names of the MLPs' tensors.
`in_memory.py`: a loaded model in the form of a checkpoint.
"""
