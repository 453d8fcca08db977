"""Lets a model write code for problems, runs the code, and judges it.

In the order of an evaluation: `problems`, `forms` and `prompts` say what is asked. `model_loading`,
`generation` or `vllm_backend`, and `sampling` let the model answer. `scorers` opens the `sandbox`
(with the filters of `confinement`) and what judges in it, in the words and threads of `scoring`:
`call_scoring` (with its `driver`, then `judges` and `plain_data`) or `program_scoring` (with
`languages`). `result` has the files at the end. `references` are the hashes of problems that no
training row may hold.
"""
