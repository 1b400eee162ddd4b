"""The exceptions of this package; a wrong array raises ValueError or TypeError."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be read, or that does not hold a model of this family."""


class CheckpointNotFoundError(CheckpointError, FileNotFoundError):
    """No file, folder or hub repository under the given name."""

    # OSError.__str__ would print only an errno where two arguments are given.
    __str__ = ValueError.__str__


class PictureError(ValueError):
    """A picture or latent file that cannot be read or written without changing what it shows."""


class TrainingError(ValueError):
    """A training that cannot be started or resumed as asked."""
