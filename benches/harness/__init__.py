"""Parts of benches/run.py: one module for each command, and what they share."""
