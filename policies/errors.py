"""The one exception that means "the input is wrong", and nothing else."""


class InputError(ValueError):
    """Bad usage or bad input.

    The message is one sentence for the user: what was expected, what came, what to do.
    The command line prints it on stderr and exits with code 2; it is never a traceback.
    """
