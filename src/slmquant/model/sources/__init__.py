"""Where weights come from: known names, hub ids, folders and files, and how each is read. `load.load` is the door."""
