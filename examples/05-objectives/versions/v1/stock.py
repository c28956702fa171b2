"""The shop as it opened: each visit borrows a connection to the stock, and gives it back."""

VERSION = "v1"


def gives_back(_visit):
    return True
