"""How long a sync takes, and what it costs: ``python -m tests.benchmarks``."""
