"""The in-memory twin of every port, held to the same promises by the suites in ``tests/contracts``."""
