"""Commands of stages: steps, dependent services, caches."""
