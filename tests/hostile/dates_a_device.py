# expect: refused by the sandbox
"""Changes a device's times. The next run could read them."""

os.utime("/dev/null")
