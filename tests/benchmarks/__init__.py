"""Benchmarks, side by side with what else there is: `python -m tests.benchmarks`. Ratios count, not figures."""
