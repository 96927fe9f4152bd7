"""What the server that cells' processes are forked from imports, so that none of them does it again.

Beside slmquant's own modules, that are the modules and tables that transformers makes when a first model is loaded, and
the list of plug-ins. Nothing is computed here: threads of torch would not survive a fork.
"""

from __future__ import annotations

import gc

import torch
from transformers import AutoModelForCausalLM, LlamaConfig
from transformers.conversion_mapping import get_checkpoint_conversion_mapping

import slmquant.runs.repeats  # noqa: F401
from slmquant import methods, tasks

with torch.device("meta"):
    AutoModelForCausalLM.from_config(
        LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    )
get_checkpoint_conversion_mapping("llama")
methods.names()
tasks.own_tasks()
gc.collect()
gc.freeze()  # children need not look through all this for garbage
