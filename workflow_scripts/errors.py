"""The one exception that a user is meant to read."""


class UserError(Exception):
    """Something that the user can put right. The message says what is wrong, where, and what to do.

    A step prints the message alone, without a stack trace, and exits with status 1.
    """
