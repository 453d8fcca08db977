"""Lets a model write code for problems, runs the code, and judges it.

In the order of an evaluation: `problems`, `forms` and `prompts` say what is asked. `model_loading`,
`generation` or `vllm_backend`, and `sampling` let the model answer; `samples` are its answers.
`scorers` opens what judges them, in the words and threads of `scoring`: `call_scoring` (with
`python_runs` and its `driver`, then `judges`, `comparison` and `plain_data`) or `program_scoring`
(with `languages`). Both run code in the `sandbox`, which `python_runs` opens, with the filters of
`confinement` and a view of this machine (`views`). `result` is the file at the end. `references`
are the hashes of problems that no training row may hold.
"""
