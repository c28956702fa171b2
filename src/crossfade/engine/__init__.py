"""Durable rollouts: a thin interpreter of the pure state machine's actions."""
