"""Thin Prefect tasks: caching, names and results; no arithmetic."""
