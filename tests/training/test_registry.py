"""The table of losses, and the texts that come from it or name its entries."""

import argparse
import dataclasses
import itertools
import re
from pathlib import Path

from taesd_jax.cli.arguments.train import add_train_arguments
from taesd_jax.training import LOSSES, Recipe

ROOT = Path(__file__).parents[2]
CARD = (ROOT / "taesd_jax" / "bundled" / "small.md").read_text()


def parser():
    made = argparse.ArgumentParser()
    add_train_arguments(made)
    return made


def test_the_page_on_training_lists_the_losses():
    rows = [f"| `{name}` | {row.weight:g} | {row.summary} |" for name, row in LOSSES.items()]
    assert (
        "|------|----------------|------------------|\n" + "\n".join(rows) + "\n\n"
        in (ROOT / "docs" / "training.md").read_text()
    )


def test_the_help_lists_the_losses():
    text = " ".join(parser().format_help().split())
    for name, row in LOSSES.items():
        assert f"{name} ({row.weight:g}): {row.summary}" in text


def test_the_help_has_every_option_in_a_group():
    titles = [group.title for group in parser()._action_groups[2:]]
    assert titles == ["student and teacher", "losses", "crops", "steps", "evaluation and log"]
    flags = {flag for action in parser()._actions for flag in action.option_strings}
    for field in dataclasses.fields(Recipe):
        assert field.name == "component" or f"--{field.name.replace('_', '-')}" in flags
    loose = [action.option_strings for action in parser()._action_groups[1]._group_actions]
    assert set(itertools.chain(*loose)) == {
        *("-h", "--help", "-o", "--output", "--resume", "--overwrite")
    }


def test_every_loss_makes_a_recipe():
    for name, row in LOSSES.items():
        for component in row.components:
            Recipe(component=component, losses={name: row.weight})


def test_the_card_names_losses_and_options_that_exist():
    assert set(re.findall(r"\b([a-z_]+)=[\d.]+", CARD)) == {*LOSSES, "detail"}  # gone, as it says
    flags = {flag for action in parser()._actions for flag in action.option_strings}
    old = re.search(r"in 0\.1, .*? they were (.*?)\.\s", CARD, re.DOTALL).group(1)
    named = set(re.findall(r"--[a-z][a-z-]*", CARD.replace(old, "")))
    assert named - flags == {"--images"}  # of compare
