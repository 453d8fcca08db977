# expect: failed

os._exit(0)
