"""Evaluation: prompts, generation, and EvalPlus's verdicts on model-written code in a sandbox."""
