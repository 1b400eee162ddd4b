"""The discriminator against PyTorch, what it learns, and its buffer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from taesd_jax.training import discriminator
from taesd_jax.training.discriminator import discriminator_loss

# Float32 sums of a few thousand terms, in another order.
ROUNDING = 2e-5


@pytest.mark.oracle
def test_discriminator_is_pytorchs():
    torch = pytest.importorskip("torch")
    params = discriminator.init_discriminator(jax.random.key(0), latent_channels=4, width=8)
    rng = np.random.default_rng(0)
    image = rng.uniform(-1, 1, (3, 32, 32, 3)).astype("f4")
    latent = rng.normal(size=(3, 4, 4, 4)).astype("f4")

    def scores(image, latent):
        taps = torch.tensor([1.0, 2, 1]) / 4
        means = (taps[:, None] * taps).expand(3, 1, 3, 3)
        padded = torch.nn.functional.pad(image, (1, 1, 1, 1), mode="replicate")
        detail = image - torch.nn.functional.conv2d(padded, means, groups=3)
        latent = torch.nn.functional.interpolate(latent, scale_factor=8)
        x = torch.cat([15 * detail, image / 2, 0.3 * latent], 1)
        for stage in range(6):
            p = {k: torch.tensor(np.asarray(v)) for k, v in params[f"stage_{stage}"].items()}
            kernel, stride = p["kernel"].permute(3, 2, 0, 1), 2 if stage in (1, 3) else 1
            x = torch.nn.functional.conv2d(x, kernel, stride=stride, padding=1)
            x = torch.nn.functional.batch_norm(x, None, None, p["scale"], p["bias"], training=True)
            x = torch.relu(x)
            yield torch.einsum("nchw,c->nhw", x, p["score"]) + p["score_bias"]

    fake = torch.tensor(image).permute(0, 3, 1, 2).requires_grad_()
    maps = list(scores(fake, torch.tensor(latent).permute(0, 3, 1, 2)))
    found = jax.jit(discriminator.score)(params, image, latent)
    for ours, theirs in zip(found, maps, strict=True):
        assert np.allclose(ours, theirs.detach(), atol=10 * ROUNDING)
    real = rng.uniform(-1, 1, (3, 32, 32, 3)).astype("f4")
    both = torch.cat([torch.tensor(real).permute(0, 3, 1, 2), fake])
    latents = torch.tensor(np.concatenate([latent, latent])).permute(0, 3, 1, 2)
    distance = sum(((m[3:] - m[:3]) ** 2).mean() for m in scores(both, latents)) / 6
    (gradient,) = torch.autograd.grad(distance, fake)
    want = fake - gradient / gradient.std(correction=0)
    real, image, latent = map(jnp.asarray, (real, image, latent))
    value, slope = jax.jit(jax.value_and_grad(discriminator.adversarial))(
        image, real, discriminator=params, latent=latent
    )
    assert float(value) == pytest.approx(distance.item(), rel=1e-3)
    target = image - slope * image.size / 2  # of a mean squared error
    assert np.allclose(target, want.detach().permute(0, 2, 3, 1), atol=5e-3)  # in deviations


def test_discriminator_learns_to_tell_fakes():
    import optax

    rng = np.random.default_rng(0)
    real = jnp.asarray(rng.uniform(-1, 1, (4, 16, 16, 3)), "f4")
    fake, latent = jnp.zeros_like(real), jnp.zeros((4, 2, 2, 4))
    params = discriminator.init_discriminator(jax.random.key(0), latent_channels=4, width=8)
    optimizer = optax.adam(3e-3)

    @jax.jit
    def step(params, state):
        grad_fn = jax.value_and_grad(discriminator_loss)
        loss, gradient = grad_fn(params, real, fake, latent, latent)
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, loss

    state = optimizer.init(params)
    found = []
    for _ in range(40):
        params, state, loss = step(params, state)
        found.append(loss)
    assert found[0] == pytest.approx(1, abs=0.05)  # chance: new params have no opinion
    assert found[-1] < 0.4


def test_replay_shows_older_fakes():
    buffer = discriminator.ReplayBuffer(
        jnp.zeros((6, 2, 2, 3)), jnp.zeros((6, 1, 1, 1)), jnp.zeros((), jnp.int32)
    )
    replay = jax.jit(discriminator.replay)
    seen = []
    for step in range(4):
        fakes = jnp.full((4, 2, 2, 3), 1.0 + step)
        buffer, mixed, latents = replay(jax.random.key(step), buffer, fakes, fakes[:, :1, :1, :1])
        assert (mixed[2:] == 1 + step).all()
        assert (latents[:, 0, 0, 0] == mixed[:, 0, 0, 0]).all()
        seen.append(np.unique(mixed[:2, 0, 0, 0]))
    assert (seen[0] == 1).all()  # there were no older ones
    assert all((found <= 1 + step).all() for step, found in enumerate(seen))
    assert any((found < 1 + step).any() for step, found in enumerate(seen))
    assert buffer.added == 16
    assert set(np.unique(buffer.images)) == {3, 4}  # the last six of sixteen
