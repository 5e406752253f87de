"""Writes networks back in the published layouts, for the tools that load those.

The original layout is what Wan's own code and ComfyUI read, the Diffusers layout what Diffusers and
transformers read. Tensors are written one at a time; shards are cut as the Hugging Face libraries
cut them.
"""

import json
import math
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from pusa_jax.convert.files.safetensors import write_safetensors
from pusa_jax.convert.files.torch_zip import write_torch_zip
from pusa_jax.convert.folders.lora_files import LoRAs, read_loras
from pusa_jax.convert.folders.opened import ModelFolder
from pusa_jax.convert.networks import COMPONENTS, Config, Layout, Name
from pusa_jax.convert.tables import LeafTensors, TensorInfo, TensorSource
from pusa_jax.files.staging import staged
from pusa_jax.models import lora
from pusa_jax.models.t5 import TextConfig
from pusa_jax.models.wan.config import DiTConfig, VAEConfig

Leaves = Mapping[str, jax.Array | np.ndarray]
Progress = Callable[[str, int, int], None]

ORIGINAL_FILES: Mapping[Name, str] = {
    "dit": "diffusion_pytorch_model.safetensors",
    "vae": "Wan2.1_VAE.pth",
    "text_encoder": "models_t5_umt5-xxl-enc-bf16.pth",
}
"""Names that the original code looks for."""

DIFFUSERS_FILES: Mapping[Name, str] = {
    "dit": "transformer/diffusion_pytorch_model.safetensors",
    "vae": "vae/diffusion_pytorch_model.safetensors",
    "text_encoder": "text_encoder/model.safetensors",
}
"""Names that Diffusers and transformers look for."""

SHARD_BYTES: Mapping[Layout, int] = {"original": 10_000_000_000, "diffusers": 5_000_000_000}
"""Largest shard of the published files."""

TOKENIZER: Mapping[Layout, str] = {"original": "google/umt5-xxl", "diffusers": "tokenizer"}

DIFFUSERS_VERSION = "0.33.0"
"""The first release that knows Wan; written into configurations."""


def export_model(
    src: ModelFolder,
    dst: str | Path,
    layout: Layout,
    loras: LoRAs = (),
    on_progress: Progress | None = None,
) -> list[Path]:
    """Writes the networks of a folder in a published layout, LoRA files merged into the DiT.

    Returns:
      the files written.

    Raises:
      FileNotFoundError, ValueError: one line saying what is missing or wrong.
      FileExistsError: dst is there and not empty.
    """
    src.check()
    adapters = read_loras(loras, src.config("dit")) if "dit" in src.names else ()

    def networks():
        for name in src.names:
            config, leaves = src.load(name)
            yield name, config, lora.merge_all(leaves, adapters if name == "dit" else ())

    try:
        tokenizer = src.tokenizer()
    except FileNotFoundError:
        tokenizer = None
    return export_folder(
        networks(), dst, layout=layout, tokenizer=tokenizer, on_progress=on_progress
    )


def export_folder(
    networks: Iterable[tuple[Name, Config, Leaves]],
    dst: Path | str,
    *,
    layout: Layout = "original",
    tokenizer: Path | None = None,
    texts: Mapping[str, str] | None = None,
    shard_bytes: int | None = None,
    on_progress: Progress | None = None,
) -> list[Path]:
    """Writes networks to a folder, which has its name only once it is complete.

    Args:
      networks: (name, configuration, leaves), taken one after the other.
      dst: folder to make.
      layout: naming scheme and arrangement.
      tokenizer: folder to copy, if any.
      texts: further files, name -> content.
      shard_bytes: largest safetensors file; default as published.
      on_progress: told about the bytes of each network.

    Returns:
      The files written.

    Raises:
      FileExistsError: dst is there and not empty.
      ValueError: leaves that do not belong to the configuration.
    """
    dst, report = Path(dst), on_progress or (lambda what, done, total: None)
    if dst.exists() and not (dst.is_dir() and not any(dst.iterdir())):
        raise FileExistsError(f"{dst} exists already; choose another folder.")
    with staged(dst) as work:
        names = [
            _write_network(work, name, config, leaves, layout, shard_bytes, report)
            for name, config, leaves in networks
        ]
        if tokenizer is not None:
            shutil.copytree(tokenizer, work / TOKENIZER[layout])
        for name, text in (texts or {}).items():
            (work / name).write_text(text, "utf-8")
        if layout == "diffusers" and set(names) == set(COMPONENTS):
            (work / "scheduler").mkdir()
            _write_json(work / "scheduler" / "scheduler_config.json", SCHEDULER)
            _write_json(work / "model_index.json", MODEL_INDEX)
    return sorted(file for file in dst.rglob("*") if file.is_file())


def _write_network(
    folder: Path,
    name: Name,
    config: Config,
    leaves: Leaves,
    layout: Layout,
    shard_bytes: int | None,
    report: Progress,
) -> Name:
    source = LeafTensors(leaves, COMPONENTS[name].rules[layout](config))
    path = folder / (ORIGINAL_FILES if layout == "original" else DIFFUSERS_FILES)[name]
    path.parent.mkdir(exist_ok=True)
    _write(path, _Watched(source, name, report), shard_bytes or SHARD_BYTES[layout])
    if (settings := published_config(config, layout)) is not None:
        _write_json(path.with_name("config.json"), settings)
    return name


class _Watched:
    """A source that reports how many bytes have been read."""

    def __init__(self, source: TensorSource, name: str, report: Progress):
        self._source, self._name, self._report, self._done = source, name, report, 0
        self._total = sum(_nbytes(info) for info in source.tensors.values())

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        return self._source.tensors

    def read(self, name: str, index: tuple[slice, ...] | None = None) -> np.ndarray:
        tensor = self._source.read(name, index)
        self._done += tensor.nbytes
        self._report(self._name, self._done, self._total)
        return tensor


def _nbytes(info: TensorInfo) -> int:
    return math.prod(info.shape) * info.dtype.itemsize


def _write(path: Path, source: TensorSource, shard_bytes: int) -> None:
    """Writes `.pth` files whole, safetensors in shards with an index if one does not suffice."""
    if path.suffix == ".pth":
        write_torch_zip(path, source)
        return
    shards: list[list[str]] = [[]]
    size = 0
    for name, info in source.tensors.items():
        if shards[-1] and size + _nbytes(info) > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += _nbytes(info)
    if len(shards) == 1:
        write_safetensors(path, source)
        return
    weight_map = {}
    for number, names in enumerate(shards, 1):
        shard = f"{path.stem}-{number:05}-of-{len(shards):05}.safetensors"
        write_safetensors(path.with_name(shard), source, names)
        weight_map |= dict.fromkeys(names, shard)
    total = sum(_nbytes(info) for info in source.tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    _write_json(path.with_name(path.name + ".index.json"), index)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def published_config(config: Config, layout: Layout) -> dict[str, Any] | None:
    """Content of the config.json that a layout keeps beside a network; None where it keeps none."""
    if layout == "original":
        return _original_dit(config) if isinstance(config, DiTConfig) else None
    if isinstance(config, DiTConfig):
        return _diffusers_dit(config)
    return _diffusers_vae(config) if isinstance(config, VAEConfig) else _umt5(config)


def _original_dit(config: DiTConfig) -> dict[str, Any]:
    return {
        "_class_name": "WanModel",
        "_diffusers_version": "0.30.0",
        "dim": config.dim,
        "eps": config.eps,
        "ffn_dim": config.ffn_dim,
        "freq_dim": config.freq_dim,
        "in_dim": config.in_dim,
        "model_type": "t2v",
        "num_heads": config.num_heads,
        "num_layers": config.num_layers,
        "out_dim": config.out_dim,
        "text_len": config.text_len,
    }


def _diffusers_dit(config: DiTConfig) -> dict[str, Any]:
    # Diffusers does not know text_len, which is 512 in every published model; others keep it here.
    text_len = {} if config.text_len == DiTConfig.text_len else {"text_len": config.text_len}
    return text_len | {
        "_class_name": "WanTransformer3DModel",
        "_diffusers_version": DIFFUSERS_VERSION,
        "added_kv_proj_dim": None,
        "attention_head_dim": config.head_dim,
        "cross_attn_norm": True,
        "eps": config.eps,
        "ffn_dim": config.ffn_dim,
        "freq_dim": config.freq_dim,
        "image_dim": None,
        "in_channels": config.in_dim,
        "num_attention_heads": config.num_heads,
        "num_layers": config.num_layers,
        "out_channels": config.out_dim,
        "patch_size": list(config.patch_size),
        "qk_norm": "rms_norm_across_heads",
        "rope_max_seq_len": 1024,
        "text_dim": config.text_dim,
    }


def _diffusers_vae(config: VAEConfig) -> dict[str, Any]:
    return {
        "_class_name": "AutoencoderKLWan",
        "_diffusers_version": DIFFUSERS_VERSION,
        "attn_scales": [],
        "base_dim": config.dim,
        "dim_mult": list(config.dim_mult),
        "dropout": 0.0,
        "latents_mean": list(config.latent_mean),
        "latents_std": list(config.latent_std),
        "num_res_blocks": config.num_res_blocks,
        "temperal_downsample": list(config.temporal_downsample),
        "z_dim": config.z_dim,
    }


def _umt5(config: TextConfig) -> dict[str, Any]:
    return {
        "architectures": ["UMT5EncoderModel"],
        "d_ff": config.dim_ffn,
        "d_kv": config.dim_attn // config.num_heads,
        "d_model": config.dim,
        "decoder_start_token_id": 0,
        "dense_act_fn": "gelu_new",
        "dropout_rate": 0.1,
        "eos_token_id": 1,
        "feed_forward_proj": "gated-gelu",
        "is_encoder_decoder": True,
        "is_gated_act": True,
        "layer_norm_epsilon": config.eps,
        "model_type": "umt5",
        "num_decoder_layers": config.num_layers,
        "num_heads": config.num_heads,
        "num_layers": config.num_layers,
        "pad_token_id": 0,
        "relative_attention_max_distance": config.max_distance,
        "relative_attention_num_buckets": config.num_buckets,
        "scalable_attention": True,
        "tie_word_embeddings": False,
        "vocab_size": config.vocab,
    }


SCHEDULER = {
    "_class_name": "UniPCMultistepScheduler",
    "_diffusers_version": DIFFUSERS_VERSION,
    "flow_shift": 3.0,
    "num_train_timesteps": 1000,
    "prediction_type": "flow_prediction",
    "use_flow_sigmas": True,
}
"""Scheduler of `Wan-AI/Wan2.1-T2V-*-Diffusers`; everything else is the class's default."""

MODEL_INDEX = {
    "_class_name": "WanPipeline",
    "_diffusers_version": DIFFUSERS_VERSION,
    "scheduler": ["diffusers", "UniPCMultistepScheduler"],
    "text_encoder": ["transformers", "UMT5EncoderModel"],
    "tokenizer": ["transformers", "T5TokenizerFast"],
    "transformer": ["diffusers", "WanTransformer3DModel"],
    "vae": ["diffusers", "AutoencoderKLWan"],
}
"""What the Diffusers pipeline is made of."""
