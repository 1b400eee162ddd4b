"""Completion for bash and zsh: the shell asks `taesd-jax --complete` for each word."""

from __future__ import annotations

import argparse
from collections.abc import Iterable

# Where nothing is printed, bash completes names of files.
SCRIPT = """\
if [ -n "${ZSH_VERSION-}" ]; then
  whence compdef >/dev/null || { autoload -Uz compinit && compinit; }
  autoload -U +X bashcompinit && bashcompinit
fi
_taesd_jax() {
  local IFS=$'\\n'
  COMPREPLY=($(taesd-jax --complete "${COMP_WORDS[@]:1:$COMP_CWORD}" 2>/dev/null))
}
complete -o default -F _taesd_jax taesd-jax
"""


def complete(parser: argparse.ArgumentParser, words: list[str]) -> list[str]:
    """Return what the last of the words after `taesd-jax` may be completed to; [] for a file.

    Args:
        parser: Knows the arguments of the subcommand among the words.
        words: The last one may be begun or empty.
    """
    *before, begun = words or [""]
    commands = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    chosen = next((word for word in before if word in commands.choices), None)
    actions = (commands.choices[chosen] if chosen else parser)._actions
    last = next((a for a in actions if before and before[-1] in a.option_strings), None)
    candidates: Iterable[str] = ()
    if last and last.nargs != 0:
        candidates = last.choices or ()
    elif begun.startswith("-"):
        candidates = (flag for action in actions for flag in action.option_strings)
    elif chosen is None:
        candidates = commands.choices
    elif before[-1] == chosen and actions:
        first = next((a for a in actions if not a.option_strings), None)
        candidates = (first.choices if first else None) or ()
    return sorted(word for word in candidates if word.startswith(begun))
