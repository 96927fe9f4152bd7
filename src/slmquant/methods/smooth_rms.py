"""Smooth-RMS: smooths by root mean square, through norms and linears; SmoothQuant adapted to small models.

Ours, after SmoothQuant (Xiao et al., ICML 2023, arXiv 2211.10438) and Outlier Suppression+ (Wei et al., EMNLP 2023,
arXiv 2304.09145), which also migrates beyond the norms. Two changes:

    * `max|X_j|` of eq. 4 becomes the root mean square of the channel. The largest magnitude of a channel is mostly
      that of one token, the attention sink, which has a scale of its own with scales per token; the mean square
      represents all tokens.
    * The inputs of `o_proj` and `down_proj` are smoothed too, through the linears before them (v, up), wherever
      `model.discovery.relations` finds such a link.

Deviations: none, as there is no paper; `α` is 0.5.

Cost: as SmoothQuant.
"""

from slmquant.methods.common.recipe import Recipe
from slmquant.methods.rtn import Nearest
from slmquant.methods.smoothquant import Smoothing

METHOD = Recipe(
    title="Smooth-RMS",
    summary="SmoothQuant by root mean square instead of maximum, also from v to o and from up to down.",
    reference="ours; cf. Xiao et al., arXiv 2211.10438, and Wei et al., arXiv 2304.09145",
    transforms=(Smoothing(measure="rms", through_linears=True),),
    rounding=Nearest(),
)
