"""No quantization: the full-precision reference that everything is compared with."""

from slmquant.methods.common.recipe import Recipe

METHOD = Recipe(title="full precision", summary="Leaves every number in 16 bits: the reference.", reference="")
