"""Seeded mutations of everything that is read, through the command line: no traceback, no wrong success."""
