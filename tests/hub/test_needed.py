"""Of a repository those files are fetched that are read, each network once."""

import re

import pytest

from pusa_jax.hub.needed import needed

UMT5 = [f"google/umt5-xxl/{n}" for n in ("spiece.model", "tokenizer.json", "tokenizer_config.json")]
DIT = [f"diffusion_pytorch_model-0000{i}-of-00002.safetensors" for i in (1, 2)]
WAN21 = [
    *DIT,
    "diffusion_pytorch_model.safetensors.index.json",
    "config.json",
    "models_t5_umt5-xxl-enc-bf16.pth",
    "Wan2.1_VAE.pth",
    *UMT5,
]
EXPERTS = [
    f"{noise}_noise_model/{name}"
    for noise in ("high", "low")
    for name in [*DIT, "diffusion_pytorch_model.safetensors.index.json", "config.json"]
]
WAN22 = [*EXPERTS, "Wan2.1_VAE.pth", "models_t5_umt5-xxl-enc-bf16.pth", "configuration.json", *UMT5]
DIFFUSERS = [
    "model_index.json",
    "transformer/config.json",
    "transformer/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "tokenizer/tokenizer.json",
    "tokenizer/spiece.model",
]
MOCHI = [f"{n}.safetensors" for n in ("dit", "encoder", "decoder")] + DIFFUSERS[5:]
PARTS, INDEX = (
    "diffusion_pytorch_model.fp16-0000",
    "transformer/diffusion_pytorch_model.fp16.safetensors.index.json",
)
WASTE = ["README.md", "assets/a.png", "examples/i2v.JPG", "LICENSE.txt", ".gitattributes"]


@pytest.mark.parametrize(
    ("files", "more"),
    [
        (WAN21, WASTE),
        (WAN21, ["Wan2.1_VAE_lora.json.txt", "xlm-roberta-large/tokenizer.json"]),
        (WAN22, [*WASTE, "nohup.out"]),
        (DIFFUSERS, [*WASTE, "transformer/diffusion_pytorch_model.bin"]),
        (DIFFUSERS, ["transformer/diffusion_pytorch_model.fp16.safetensors"]),
        (DIFFUSERS, [f"transformer/{PARTS}{i}-of-00002.safetensors" for i in (1, 2)] + [INDEX]),
        (DIFFUSERS, ["text_encoder/pytorch_model.bin", "scheduler/scheduler_config.json"]),
        ([*DIFFUSERS, "transformer_2/config.json", f"transformer_2/{DIT[0]}"], []),
        ([*MOCHI, "model_index.json"], DIFFUSERS[1:5]),
    ],
)
def test_of_a_published_model_its_networks_tables_and_tokenizer(files, more):
    assert sorted(needed([*files, *more]).files) == sorted(files)
    assert needed([*files, *more]).path == ""


def test_weights_of_another_form_are_taken_where_there_is_no_better():
    files = [f.replace("model.safetensors", "model.fp16.safetensors") for f in DIFFUSERS]
    files = [f.replace("vae/diffusion_pytorch_model.fp16.safetensors", "vae/x.bin") for f in files]
    assert set(needed(files).files) >= {"text_encoder/model.fp16.safetensors", "vae/x.bin"}
    files = [f.replace("text_encoder/model.safetensors", "text_encoder/x") for f in DIFFUSERS]
    assert (
        "text_encoder/pytorch_model.bin" in needed([*files, "text_encoder/pytorch_model.bin"]).files
    )
    other = ["transformer/big.safetensors", "vae/x.fp16.safetensors"]
    assert set(other).isdisjoint(needed([*files, *other, "text_encoder/pytorch_model.bin"]).files)


def test_a_file_comes_with_the_table_beside_it():
    files = ["a/lora.safetensors", "a/adapter_config.json", "a/other.safetensors", "config.json"]
    found = needed(files, "a/lora.safetensors", "lora")
    assert found.files == tuple(files[:2]) and found.path == files[0]


def test_an_index_comes_with_its_shards():
    found = needed(WAN21, "diffusion_pytorch_model.safetensors.index.json")
    assert set(found.files) == {
        *DIT,
        "diffusion_pytorch_model.safetensors.index.json",
        "config.json",
    }


def test_a_folder_in_a_repository_is_taken_as_one():
    inside = [f"hub/{name}" for name in WAN21]
    found = needed([*inside, *WASTE, "other.safetensors"], "hub")
    assert sorted(found.files) == sorted(inside) and found.path == "hub"
    set_of_two = ["l/high_noise_model.safetensors", "l/low_noise_model.safetensors"]
    assert needed([*set_of_two, "x.pth"], "l", "loras").files == tuple(set_of_two)


def test_a_lora_is_found_alone_or_by_its_usual_name():
    assert needed(["pusa.safetensors", "README.md"], kind="lora").path == "pusa.safetensors"
    peft = ["adapter_config.json", "adapter_model.safetensors", "optimizer.pt"]
    found = needed(peft, kind="lora")
    assert sorted(found.files) == sorted(peft[:2]) and found.path == ""


def test_of_several_loras_or_many_checkpoints_one_has_to_be_named():
    names = [f"lora_{i}.safetensors" for i in range(9)]
    with pytest.raises(ValueError, match=r"2 checkpoints, of which one has to be named: lora_0"):
        needed(names[:2], kind="lora")
    with pytest.raises(ValueError, match=r"9 checkpoints, of which one .* and 4 more$"):
        needed(names)
    assert needed(names[:8]).files == tuple(names[:8])


def test_what_is_not_there_is_named_with_what_is_like_it():
    text = "no file or folder x/14b; it has y/wan-14B.safetensors"
    with pytest.raises(FileNotFoundError, match=re.escape(text) + "$"):
        needed(["y/wan-14B.safetensors", "z.pth"], "x/14b")
    with pytest.raises(FileNotFoundError, match=r"no checkpoint; it has README\.md"):
        needed(["README.md"])
