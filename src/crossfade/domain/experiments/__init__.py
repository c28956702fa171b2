"""Experiments: variants of a flag compared by what the units that saw them did, at every moment."""
