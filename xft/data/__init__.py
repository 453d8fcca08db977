"""Reads and filters rows, puts them into prompts, and tokenises them.

In the order of their use: `instruction_rows.py` says what rows are, `row_files.py` reads them,
`prompt_templates.py` puts them into prompts, `unwanted_rows.py` finds those to leave out,
`tokenized_rows.py` makes tokens of the others and keeps them, `tokenizers.py` has the
tokenizers of model folders. `preparation.py` does all of it.
"""
