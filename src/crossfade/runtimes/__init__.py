"""Runtimes start and stop the replicas of a release, which outlive the control plane."""
