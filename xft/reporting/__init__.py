"""Tables, texts and pages for people. In the order in which a result passes through them:

`run_table` names the files of results and reads each of them once; `statistics` has intervals and
differences of two models, `comparisons` those of all pairs and their words, `findings` what is
found of one pair, `verdict` the decision, `variants` and `swept` answers to what was asked.
`summaries.Summary` holds all of this, and the summary's files follow from it (by `summary.md.jinja`
and `conclusions`). `page` reads these files in a results folder. `cards` serve the steps.
"""
