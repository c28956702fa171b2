"""Feature flags: their format, how they are evaluated, and how their percentages stay honest."""
