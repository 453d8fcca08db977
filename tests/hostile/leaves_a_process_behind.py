# expect: refused by the sandbox

if os.fork() == 0:
    os.setsid()
    while True:
        time.sleep(0.01)
