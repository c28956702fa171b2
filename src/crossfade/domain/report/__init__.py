"""The report of a month: what is counted, what each figure means, and how it is written down."""
