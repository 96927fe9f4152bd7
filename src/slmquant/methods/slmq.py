"""SLMQ: types chosen for a number of bytes, GPTQ with searched scales, and tuned scales.

Ours, for models of up to about a billion parameters, where embeddings are a third of a file and no table of types
written for large models fits. Three steps, each on text of its own (`calib.texts`):

1. With `--max-bytes`, every weight gets one of GGUF's types such that the file has at most so many bytes and the
   predicted divergence is least (`mixing`). Without it, the scheme or the mixture file says the types.
2. Weights are rounded as by `gptq_mse`. A tied embedding has two uses: as head it reads hidden states, and its rows are
   looked up, where an error costs its squared length whatever the head reads. So three tenths of the mean diagonal of
   the head's Hessian are added to its diagonal, chosen on calibration text of two models.
3. Scales and norm gains are tuned end to end, as by `scale_tuning`; codes stay as they are.

Deviations: none; this file is the definition.

Cost: as `gptq_mse+scale_tuning`; before, choosing types rounds the weights of every fourth block to every type
(`paper`: of all blocks), once for each model.
"""

from __future__ import annotations

from slmquant.methods.common.recipe import Recipe
from slmquant.methods.gptq import Gptq
from slmquant.methods.gptq_sink import SINK_SHARE
from slmquant.methods.scale_tuning import ScaleTuning

METHOD = Recipe(
    title="SLMQ",
    summary="GPTQ-MSE and tuned scales; with --max-bytes, each weight gets the type that serves the whole file best.",
    reference="ours; see docs/slmq.md",
    rounding=Gptq(weighting="energy", sink_share=SINK_SHARE, scales="loss", lookups=0.3),
    tuning=ScaleTuning(),
)
