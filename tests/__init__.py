"""Tests of slmquant."""

from tests import shapes as shapes  # pytest names it before any test is imported
