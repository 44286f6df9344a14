"""How fast IMRAM and CAMP are scored, and in how much memory. `python tests/benchmarks --quick`."""
