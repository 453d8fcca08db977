# expect: refused by the sandbox
"""Changes the mode of /dev/null for all processes of the machine, as root can."""

os.chmod("/dev/null", os.stat("/dev/null").st_mode & 0o777)  # the same mode: it does no harm
