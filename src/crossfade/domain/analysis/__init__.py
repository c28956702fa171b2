"""Judging a candidate against limits and, later, against its baseline. Pure."""
