"""With a faster stock. Each visit borrows a connection to the stock, and gives it back."""

VERSION = "v2"


def gives_back(_visit):
    return True
