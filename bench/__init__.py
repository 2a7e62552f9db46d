"""Ratios against the ordinary way, measured side by side in one process. docs/performance.md says how to read them."""
