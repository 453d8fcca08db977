"""Number types: their names in safetensors and torch, and their sizes."""

DTYPE_BYTES = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("I8", "U8", "BOOL"), 1),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 1),
}
FLOAT_NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
INTEGER_NAMES = {"I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8"}
TORCH_NAMES = FLOAT_NAMES | INTEGER_NAMES | {"BOOL": "bool"}


def torch_dtype(name: str):
    """torch's dtype for a type in safetensors' spelling ("F32", "BF16")."""
    import torch

    return getattr(torch, TORCH_NAMES[name])
