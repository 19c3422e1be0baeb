"""Times and ratios, each against a peer in the same run. ``python -m benchmarks [NAME ...]`` writes RESULTS.md."""
