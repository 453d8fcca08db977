"""Tools that users call by hand. `xft` has them as subcommands.

Before a run: `plan`. During it: `status`. After it: `joint_report` (`xft report`), `compare`,
`export`. For the store: `verify`, `gc`, `push`, `pull`. `with_mixtures` lets other programs load
mixtures, by `at_start`, which they import as they start. `xft` finds the tool of a command line.
"""
