# expect: failed
# A server of this machine listens there.
exec 3<>/dev/tcp/127.0.0.1/PORT
