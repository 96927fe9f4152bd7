"""Checks the shapes and types that the signatures of `slmquant.core` state, while its tests run (`make test`)."""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
"""beartype, to which a whole number is a float as it is to mypy."""
