"""Parts of benches/compare.py."""
