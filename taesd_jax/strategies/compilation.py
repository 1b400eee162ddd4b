"""Compilation of a component ahead of time, for inputs of one shape and dtype."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
from jax.typing import ArrayLike

from ..model.functional import Computation
from ..model.inputs import check_values
from ..model.layers import Component
from .placement import place
from .planner import Limits, plan
from .run import run, select_params, with_engine


@dataclasses.dataclass(frozen=True)
class CompiledComponent:
    """A component that was compiled ahead of time.

    Attributes:
        component: "encoder" or "decoder".
        program: JAX's program, which tells its memory and operations.
    """

    component: Component
    program: jax.stages.Compiled

    def __call__(self, model: Any, x: ArrayLike) -> jax.Array:
        """Run a model like the one it was compiled for on an input of the same shape and dtype."""
        check_values(x, self.component)
        return self.program(*place((model, x)))


def compile_planned(
    model: Any, x: jax.ShapeDtypeStruct, computation: Computation, limits: Limits
) -> CompiledComponent:
    """Choose how to run and compile that, for a pytree `model` that has params."""
    execution = plan(model.params, x, computation, limits)
    computation = with_engine(model.params, x, computation, execution.strategy)

    def run_component(model: Any, x: jax.Array) -> jax.Array:
        params = select_params(model.params, computation)
        return run(params, x, computation, execution.strategy, execution.batch_size)

    options = computation.engine and computation.engine.compiler_options
    program = jax.jit(run_component).lower(model, x).compile(compiler_options=options)
    return CompiledComponent(computation.component, program)
