# expect: failed
head -c 700M /dev/zero >large || exit 1
