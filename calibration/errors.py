"""The exception of this package."""


class CalibrationError(ValueError):
    """Data that cannot be calibrated from, or do not tell what is asked.

    The message is one sentence: what was expected, what came, what to do. This package imports no
    other one of ours; the command turns the exception into bad input, exit code 2.
    """
