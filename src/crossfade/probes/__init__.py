"""Probers ask replicas and edges the questions of health checks and flows."""
