"""The one error a user of this package meets: it names the value, why it is wrong, and what to write."""


class GtaError(ValueError):
    """Something the caller gave cannot be used; the message says what, why, and what to do instead."""
