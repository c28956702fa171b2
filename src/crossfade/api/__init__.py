"""The HTTP API: the use cases of `service`, with the words of the design as resources."""
