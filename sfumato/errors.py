"""Errors that the caller can correct: every message names the value and the remedy."""


class SfumatoError(Exception):
    """Base of all errors that a user can act on; the command line prints it without a traceback (exit code 1)."""


class UsageError(SfumatoError, ValueError):
    """An argument is wrong: unknown name, value out of range, prompts that do not fit the method (exit code 2)."""


class ImageError(SfumatoError, ValueError):
    """An image cannot be read or does not fit the model."""


class ModelError(SfumatoError):
    """A model cannot be loaded, or cannot do what was asked of it."""


class InversionError(SfumatoError, ValueError):
    """An inversion is damaged, foreign, or does not fit the run that wants to replay it."""


class DirectionError(SfumatoError, ValueError):
    """An edit direction is damaged, foreign, or belongs to another text encoder."""


class SamplingError(SfumatoError, RuntimeError):
    """A run broke down: latents became NaN or infinite."""


class Cancelled(SfumatoError):
    """The caller asked a run to stop."""
