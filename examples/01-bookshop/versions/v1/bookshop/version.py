"""Which version of the shop this is; every answer says so in the header ``X-Bookshop-Version``."""

VERSION = "v1"
