"""The forms of problems. A form is a module that offers:

EXAMPLE: the keys that a row of the form has and others lack, in words.
fits(fields): whether a row is of the form.
parse(fields, place): the problem of a row. It has a task_id, a prompt, a unit and a
    canonical_program. Raises UserError.
prompt(problem, template): its `TaskPrompt`.
texts(problem): what no training row may hold, by kind.
check(problem_set): raise UserError if this machine cannot judge the problems.
expected(problem_set, sandbox, workers): the expected results by task id, from canonical solutions.
score(problem_set, expected, solutions, sandbox, workers): a `Verdict` for each solution.
about(problem_set, sandbox): the versions that judge, and how memory is bounded, for the result.
"""
