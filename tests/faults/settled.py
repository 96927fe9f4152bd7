"""Imported last by the process that commands are forked from: nothing that it holds is looked through for garbage."""

import gc

gc.freeze()
