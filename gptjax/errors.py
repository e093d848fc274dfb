"""The one exception that a user is meant to read."""


class UserError(Exception):
    """Something the user can mend, told in one line.

    The message says what was wrong, where (file, key, leaf) and what would be
    right. The command line prints it without a traceback and exits with 1.
    """


class Diverged(UserError):
    """The loss or a gradient of a run is not finite."""


class Stopped(Exception):
    """The run was told to stop, and did so with its state saved.

    Attributes:
      signal: the number of the signal; a process so stopped exits with 128 + signal.
    """

    def __init__(self, message: str, *, signal: int):
        super().__init__(message)
        self.signal = signal
