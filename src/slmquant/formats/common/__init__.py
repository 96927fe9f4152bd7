"""Shared by formats: the contract, iteration over weights, checkpoint folders."""
