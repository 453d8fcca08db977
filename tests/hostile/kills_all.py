# expect: refused by the sandbox

os.kill(-1, 9)
