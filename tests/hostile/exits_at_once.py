# expect: error

os._exit(0)
