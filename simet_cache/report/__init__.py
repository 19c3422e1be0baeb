"""Results as data (JSON, CSV), as a table for a terminal, and as Markdown."""
