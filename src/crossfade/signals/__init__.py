"""Adapters of the port `Signals`."""
