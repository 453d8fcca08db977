# expect: too costly to judge
yes
