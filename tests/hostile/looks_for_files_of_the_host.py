# expect: error
"""Looks for answers, secrets, data sets, and any package except numpy."""

WANTED = ("evalplus", "lm_eval", "xft", ".env", ".git", "problems.jsonl", "passwd")
packages, found = [], []
for folder, folders, files in os.walk("/"):
    found += [name for name in folders + files if name in WANTED and "/evaluation" not in folder]
    if folder.endswith("-packages"):
        packages += set(folders) - {"numpy", "numpy.libs"}
if set(found) <= {"xft"} and not packages:  # the folder of the runner's own files
    raise SystemExit
