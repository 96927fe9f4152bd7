"""Model sources: known names, hub ids, folders and files, and their readers. The entry point is `load.load`."""
