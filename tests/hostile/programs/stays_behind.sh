# expect: passed
# The name of the process tells whether it is there afterwards.
setsid nohup bash -c 'exec -a stays_behind sleep 600' >/dev/null 2>&1 &
sleep 0.2
exit 0
