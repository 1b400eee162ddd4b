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
    """A training that cannot be started, resumed or gone on with."""


def one_line(message: object) -> str:
    r"""Return a message for a terminal: one line, and no character that would steer it.

    >>> one_line("the tensors fit no model:\n  decoder a: missing\n  decoder b: missing")
    'the tensors fit no model: decoder a: missing; decoder b: missing'
    >>> one_line("no such file: \x1b[2J")
    'no such file: \\x1b[2J'
    """
    first, *more = (line.strip() for line in str(message).strip().split("\n"))
    line = " ".join([first, "; ".join(more)]).strip()
    # Surrogates stand for the bytes of a file's name that are no text.
    return "".join(
        c if c.isprintable() or "\udc80" <= c <= "\udcff" else repr(c)[1:-1] for c in line
    )
