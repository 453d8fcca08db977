"""XFT, step by step: one module per workflow rule above, the library in the sub-packages below."""
