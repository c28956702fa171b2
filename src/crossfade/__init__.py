"""Crossfade: ship every change with zero downtime, and take any of them back at once."""

__version__ = "0.1.0"
