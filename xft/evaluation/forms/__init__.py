"""The forms of problems. Each is a module of functions:

fits(fields): whether a row is of this form. All other rows are `calls`.
parse(fields): the problem of a row, which has a task_id, a prompt, a unit and a canonical_program.
prompt(problem, template): the text that a model continues.
texts(problem): what no training row may hold, by kind.

`scorers` has what runs and judges the solutions of each form.
"""
