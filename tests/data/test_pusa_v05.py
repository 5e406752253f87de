"""Clips encoded for Mochi by others: latents' posteriors and features of captions."""

import ml_dtypes
import numpy as np
import pytest

pytest.importorskip("grain", reason="needs the extra [train]")
pytest.importorskip("tensorflow_datasets", reason="needs the extra [train]")


from pusa_jax.cli.main import main
from pusa_jax.data.encoded import EncodedClips
from pusa_jax.data.pusa_v05 import MODEL

torch = pytest.importorskip("torch", reason="needs the extra [test]")
pytestmark = pytest.mark.torch

LENGTHS = (3, 7, 0)  # of captions; 0: none


def published(folder, *, beside=False):
    """As PusaV0.5_Training is laid out, or with all of a clip in one folder."""
    means = []
    for k, length in enumerate(LENGTHS):
        videos = folder if beside else folder / "videos" / "part"
        captions = folder if beside else folder / "captions" / "part"
        for place in (videos, captions):
            place.mkdir(parents=True, exist_ok=True)
        mean = torch.randn(1, 12, 3, 4, 6)
        posterior = {"mean": mean, "logvar": torch.zeros_like(mean)}
        torch.save(posterior, videos / f"clip{k}.latent.pt")
        mask = torch.arange(20)[None] < length
        features = {"y_feat": [torch.randn(1, 20, 32) * mask[..., None]], "y_mask": [mask]}
        torch.save(features, captions / f"clip{k}.embed.pt")
        means.append((mean[0].numpy(), features["y_feat"][0][0, :length].numpy()))
    return means


@pytest.mark.parametrize("beside", [False, True])
def test_latents_are_the_normalised_means(tmp_path, beside, capsys):
    means = published(tmp_path / "src", beside=beside)
    argv = ["data", "import", "--src", str(tmp_path / "src"), "--dst", str(tmp_path / "ds")]
    assert main(argv) == 0, capsys.readouterr().err
    clips = EncodedClips(tmp_path / "ds")
    assert clips.card.pixels == (13, 32, 48) and clips.card.text_shape == (20, 32)
    for k, (mean, text) in enumerate(means):
        stored = clips.example(k)
        z = stored.latents.astype(np.float32) * MODEL.vae.latent_std + MODEL.vae.latent_mean
        np.testing.assert_allclose(z, np.moveaxis(mean, 0, -1), atol=0.03)
        np.testing.assert_array_equal(stored.text, text.astype(ml_dtypes.bfloat16))
    assert not clips.no_text.any()


def test_unusable_clips_are_skipped_with_their_reasons(tmp_path, capsys):
    published(tmp_path / "src")
    videos, captions = (tmp_path / "src" / name / "part" for name in ("videos", "captions"))
    (captions / "clip0.embed.pt").unlink()
    torch.save({"mean": torch.zeros(1, 12, 2, 4, 6)}, videos / "clip1.latent.pt")
    argv = ["data", "import", "--src", str(tmp_path / "src"), "--dst", str(tmp_path / "ds")]
    assert main(argv) == 0
    told = capsys.readouterr().out
    assert "part/clip0.embed.pt is neither in captions nor beside it" in told
    assert "1 clips, 2 skipped" in told and "the first clip has" in told


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"y_mask": [torch.tensor([[True, False] * 10])]}, "mask with a gap"),
        ({"y_feat": torch.zeros(1, 20, 32)}, "has no y_feat.0"),
        ({"y_mask": [torch.ones(1, 19, dtype=torch.bool)]}, "under a mask of"),
        ({"y_mask": ["x"]}, "no tensors"),
    ],
)
def test_damaged_features_are_said(tmp_path, change, words, capsys):
    published(tmp_path / "src")
    for k in range(1, len(LENGTHS)):
        (tmp_path / "src" / "videos" / "part" / f"clip{k}.latent.pt").unlink()
    file = tmp_path / "src" / "captions" / "part" / "clip0.embed.pt"
    torch.save(torch.load(file) | change, file)
    argv = ["data", "import", "--src", str(tmp_path / "src"), "--dst", str(tmp_path / "ds")]
    assert main(argv) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "ds").exists()


def test_latents_of_another_model_are_refused(tmp_path, capsys):
    published(tmp_path / "src")
    for file in (tmp_path / "src" / "videos" / "part").iterdir():
        torch.save({"mean": torch.zeros(1, 16, 3, 4, 6)}, file)
    argv = ["data", "import", "--src", str(tmp_path / "src"), "--dst", str(tmp_path / "ds")]
    assert main(argv) == 2
    assert "16 channels, mochi-1's VAE has 12" in capsys.readouterr().err
