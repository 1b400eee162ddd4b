"""What a teacher computes for crops: kept, shared, resumed, and told apart."""

import numpy as np
import pytest
from trainings import same

from taesd_jax import AutoencoderTiny
from taesd_jax.errors import TrainingError
from taesd_jax.io import from_uint8
from taesd_jax.training import Recipe, list_images
from taesd_jax.training.crops import Crops
from taesd_jax.training.teacher_cache import TeacherCache, iter_batches

pytest.importorskip("grain")
# Grain calls what its own dependencies have since deprecated.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def cache(photographs, teacher):
    """Return a function that makes caches of the same images and teacher."""
    model, images = AutoencoderTiny.from_pretrained(teacher), list_images([photographs])

    def make(folder, *, digest="it", images=images, **fields):
        recipe = Recipe(**({"crop_size": 16, "num_crops": 40} | fields))
        return TeacherCache(folder, Crops(images, recipe), model, teacher_digest=digest)

    return make


def test_caches_are_shared_and_told_apart(cache, tmp_path):
    calls, fields = [], {"crop_size": 32, "teacher_blend": 0.5}
    first = cache(tmp_path, **fields)
    first.fill(lambda done, count: calls.append((done, count)))
    assert calls == [(40, 40)]
    crop, stored = first.crops[35], cache(tmp_path, **fields)[35]
    assert (stored["image"] == crop).all()
    latent = first.teacher.encode(from_uint8(crop)[None]).latents
    assert np.allclose(stored["latent"], latent[0], atol=1e-4)
    sample = first.teacher.decode(latent).sample
    assert np.allclose(from_uint8(stored["decoded"]), np.clip(sample[0], -1, 1), atol=1 / 127)
    cache(tmp_path, crop_size=32).fill(lambda *_: pytest.fail("nothing is missing"))
    for changes, differing in (
        ({"num_crops": 41}, "num_crops"),
        ({"digest": "other"}, "teacher"),
        ({"seed": 1}, "seed"),
        ({"images": first.crops.images[:2]}, "images"),
    ):
        with pytest.raises(
            TrainingError, match=f"has a teacher's cache with other {differing}; name"
        ):
            cache(tmp_path, **(fields | changes)).fill()


def test_reconstructions_are_added_where_they_are_missing(cache, tmp_path):
    plain = cache(tmp_path, num_crops=4)
    plain.fill()
    blended = cache(tmp_path, num_crops=4, teacher_blend=1.0)
    blended.fill()
    assert set(plain[3]) == {"image", "latent"}
    same(plain[3], {name: blended[3][name] for name in plain[3]})
    assert blended[3]["decoded"].shape == (16, 16, 3)


def test_a_cache_that_came_in_between_is_told_apart(cache, tmp_path):
    first, second = (cache(tmp_path, num_crops=4, seed=seed) for seed in range(2))
    first.fill()
    with pytest.raises(TrainingError, match="has a teacher's cache with other seed"):
        second.fill()


def test_a_fill_that_was_killed_goes_on(cache, tmp_path):
    whole, cut = (cache(tmp_path / name, num_crops=700) for name in ("whole", "cut"))
    whole.fill()

    def stop(done, count):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cut.fill(stop)
    assert len(list((tmp_path / "cut").glob("latent_*.npy"))) == 16  # blocks of 32
    cut.fill()
    for number in (0, 511, 512, 699):
        same(cut[number], whole[number])
    names = [sorted(path.name for path in folder.iterdir()) for folder in tmp_path.iterdir()]
    assert names[0] == names[1]


def test_damaged_blocks_are_named_and_computed_again_once_deleted(cache, tmp_path):
    kept = cache(tmp_path)
    kept.fill()
    before, block = kept[35], tmp_path / "latent_000001.npy"
    block.write_bytes(block.read_bytes()[: block.stat().st_size // 2])
    with pytest.raises(TrainingError, match=r"latent_000001\.npy cannot be read .* delete it"):
        kept[35]
    np.save(block, np.zeros((3, 2, 2, 4), "f4"))
    with pytest.raises(TrainingError, match=r"latent_000001\.npy cannot be read .* delete it"):
        kept[35]
    block.unlink()
    with pytest.raises(TrainingError, match=r"latent_000001\.npy cannot be read"):
        kept[35]
    kept.fill()
    same(kept[35], before)
    (tmp_path / "cache.json").write_text("{")
    with pytest.raises(TrainingError, match=r"cache\.json cannot be read"):
        kept.fill()


def test_batches_depend_on_their_number_alone(cache, tmp_path):
    kept = cache(tmp_path, num_crops=12)
    kept.fill()
    recipe = Recipe(steps=9, batch_size=4, crop_size=16)
    for source in (kept.crops, kept):
        whole, later = (list(iter_batches(source, recipe, start)) for start in (0, 6))
        assert len(whole) == 9
        same(whole[6:], later)
    rounds = [np.stack([b["latent"] for b in whole[i : i + 3]]) for i in (0, 3)]
    ordered = [np.sort(r.reshape(12, -1), axis=0) for r in rounds]
    assert (ordered[0] == ordered[1]).all()  # each crop once a round
    assert (rounds[0] != rounds[1]).any()  # in another order
