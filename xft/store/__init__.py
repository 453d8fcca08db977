"""The store: every artifact lies in an entry, a folder that is named by the digest of its recipe.

- made: `store.py` has recipes and entries, `code.py` the versions of steps, `file_hashes.py` the
  hashes of the user's files. `make.py` runs the command of a job in `ENTRY.partial`, as the plan of
  the run says (`job_records.py`), and `store.publish` renames the folder when it is whole.
- found: an entry exists if it has its entry.json, which is written last (`store.is_whole`).
  `others.take` links entries of other people's stores, which are only read. `links.py` gives
  entries their names in results folders.
- verified: `store.entry_faults` compares an entry with its entry.json, and `manifest.find_faults`
  the files with their manifest. `others.py` does both, with all bytes, before it takes an entry.
- removed: `links.find_unwanted` lists the entries that no results folder wants; only `xft gc`
  removes them, each first renamed. Nothing else removes a whole entry, and nothing changes one.
"""
