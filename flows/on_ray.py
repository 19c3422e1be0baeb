"""Task runs on Ray."""
