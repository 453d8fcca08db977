"""The store: every artifact lies in an entry, a folder that is named by the digest of its recipe.

- made: `store.py` has recipes and entries, `code.py` the versions of steps, `file_hashes.py` the
  hashes of the user's files. `make.py` runs the command of a job in `ENTRY.partial`, as the plan of
  the run says (`job_records.py`), as a fork where it can (`forks.py`). `store.finish` writes
  entry.json last, and renames the folder.
- found: what has its entry.json is an entry (`store.is_whole`). Entries of other stores are
  linked or fetched by `others.py`, the only module that knows where another store lies. `remote.py`
  knows how an entry lies in a bucket, `server.py` what a server may do wrong, and `hub_files.py`
  the hub's interface. `links.py` gives entries their names in results folders.
- published: the process that made an entry uploads it, if its job says so; or `xft push` later.
- verified: `store.all_faults` compares every byte with entry.json and the manifests. An entry of
  another store counts only after that.
- removed: `links.find_unwanted` lists what no results folder wants, and `xft gc` removes it by
  `store.remove`. Nothing else removes a whole entry, and nothing changes one.
"""
