# expect: refused by the sandbox

os.kill(os.getppid(), 9)
