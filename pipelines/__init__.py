"""Programs: each reads, builds and writes. The command line is in ``forecourt.py``."""
