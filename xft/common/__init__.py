"""Helpers for all packages.

`errors.py`: errors that users can correct. `progress.py`: lines and bars. `file_access.py` and
`json_files.py`: files that others may have written. `foreign_text.py`: what such files say, on a
terminal or in a text. `user_code.py`: code of the user's.
`system.py`: processes and their limits. `gpus.py`: the device. `optional.py`: extras.
`results_folder.py`: what identifies a results folder.
"""
