"""The pure core: values, laws and decisions. No I/O, no clock, no randomness, no async, no logging."""
