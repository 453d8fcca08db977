"""Tools that users call by hand. `xft` has them as subcommands.

Each has a module of its name, but `xft report`, which is `joint_report`: the step of the workflow
that writes a report about one configuration is `workflow_scripts.report`. `at_start` is what a
program of `xft with-mixtures` imports as it starts.
"""
