"""K-quant search with an importance matrix: weights each error by the mean square of its input channel.

After ggml's importance matrix (Kawrakow, llama.cpp pull request 4861, 2024), which has no paper. Minimises
`Σ_j E[x_j²] · (w_j − ŵ_j)²` in each group: the squared output error if inputs were uncorrelated.

Deviations: as `kquant`; also, ggml multiplies `E[x²]` by `sqrt(σ² + w²)`, where `σ²` is twice the mean square of the
row.

Cost: one forward pass over the calibration tokens, and a vector for each distinct input; then as `kquant`.
"""

from slmquant.methods.common.recipe import Recipe
from slmquant.methods.kquant import KQuant

METHOD = Recipe(
    title="K-quant (imatrix)",
    summary="Searches the scales and minima of GGUF's types for the least error, weighted by the inputs' mean squares.",
    reference="Kawrakow, llama.cpp pull request 4861, 2024",
    rounding=KQuant(needs=frozenset({"range"})),
)
