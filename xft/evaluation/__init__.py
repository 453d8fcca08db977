"""Evaluates models: generates code, runs it in a sandbox and judges it by EvalPlus's rules."""
