"""Completion of the words of a command line, and by real shells."""

import os
import shutil
import subprocess
import sys

import pytest

from taesd_jax.cli import main


@pytest.mark.parametrize(
    ("words", "candidates"),
    [
        (["en"], ["encode", "encode-dataset", "encode-video"]),
        (["--ver"], ["--version"]),
        (["decode", "--sc"], ["--scale"]),
        (["decode", "x.npz", "--scale", "1/1"], ["1/16"]),
        (["train", ""], ["decoder", "encoder"]),
        (["train", "decoder", ""], [""]),
        (["decode", ""], [""]),
        (["decode", "--model", ""], [""]),
        (["nothing", "--"], ["--completion", "--debug", "--help", "--quiet", "--version"]),
    ],
)
def test_candidates(capsys, words, candidates):
    assert main(["--complete", *words]) == 0
    assert capsys.readouterr().out.splitlines() == candidates


# Completes as the shell itself does when it is asked to, with the words of a line.
ASK = {
    "bash": """
        COMP_WORDS=(taesd-jax decode --scale 1/1) COMP_CWORD=3
        complete -p taesd-jax && _taesd_jax && echo "${COMPREPLY[@]}"
    """,
    # The completion system of zsh needs a terminal.
    "zsh": """
        zmodload zsh/zpty; zpty z zsh -f -i
        zpty -w z 'autoload -U compinit; compinit -u; eval "$(taesd-jax --completion)"'
        zpty -n -w z $'taesd-jax decode --scale 1/1\\t'
        zpty -r -m z line '*1/16*' && echo "$line"
    """,
}


@pytest.mark.process
@pytest.mark.parametrize("shell", ASK)
def test_shells_complete(working_folder, shell):
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    script = ASK[shell]
    if shell == "bash":
        script = f'eval "$(taesd-jax --completion)"\n{script}'
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    command = [shell, "-f", "-c", script] if shell == "zsh" else [shell, "-c", script]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env=os.environ | {"PATH": path},
    )
    assert "1/16" in done.stdout
