"""The two exceptions that mean something to the command line."""


class InputError(ValueError):
    """Bad usage or bad input.

    The message is one sentence for the user: what was expected, what came, what to do.
    The command line prints it on stderr and exits with code 2; it is never a traceback.
    """


class FaultError(RuntimeError):
    """A fault stopped the work although the input was good (a process died, a robot was stopped).

    The command line prints the message on stderr and exits with code 3.
    """
