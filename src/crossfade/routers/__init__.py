"""Adapters of the port `Router`."""
