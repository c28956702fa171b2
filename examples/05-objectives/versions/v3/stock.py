"""With a leak that no test and no canary has found: one visit in four keeps its connection, until none is left."""

VERSION = "v3"


def gives_back(visit):
    return visit % 4 != 0
