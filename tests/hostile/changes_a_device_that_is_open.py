# expect: refused by the sandbox
"""Changes the mode of /dev/null by a descriptor."""

descriptor = os.open("/dev/null", os.O_RDWR)
os.fchmod(descriptor, os.fstat(descriptor).st_mode & 0o777)
