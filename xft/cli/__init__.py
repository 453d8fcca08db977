"""Command lines of the steps and tools.

`step` has the flags, from the classes of the configuration, and the inputs and the artifact of a
step; `training_step` the same for trainings. `running` ends a process with one message for a user's
mistake, without a stack trace.
"""
