"""Benchmarks beside the tools a user would pick instead; `python -m tests.bench --help`. No test is collected here."""
