"""The one exception that a user is meant to read."""


class UserError(Exception):
    """Something the user can mend, told in one line.

    The message says what was wrong, where (file, key, leaf) and what would be
    right. The command line prints it without a traceback and exits with 1.
    """
