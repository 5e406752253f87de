"""A tiny Inception-I3D in PyTorch, by the published architecture, for files in both namings."""

import torch
from torch.nn import functional

CHANNELS = {
    "3b": (2, 3, 4, 2, 3, 2), "3c": (3, 2, 3, 2, 2, 3), "4b": (2, 2, 3, 3, 2, 2),
    "4c": (2, 3, 2, 2, 3, 2), "4d": (3, 2, 2, 2, 3, 2), "4e": (2, 2, 4, 2, 2, 3),
    "4f": (4, 3, 2, 2, 2, 3), "5b": (3, 2, 3, 2, 4, 2), "5c": (2, 4, 3, 3, 2, 4),
}  # fmt: skip
STEM = (4, 3, 5)
CLASSES = 6
THEIRS = {
    ".batch3d.": ".bn.", "conv3d_0c_1x1": "logits", "conv3d_": "Conv3d_", "mixed_": "Mixed_",
    "branch_0": "b0", "branch_1.0": "b1a", "branch_1.1": "b1b", "branch_2.0": "b2a",
    "branch_2.1": "b2b", "branch_3.1": "b3b",
}  # fmt: skip
"""Names of kinetics_i3d_pytorch -> those of pytorch-i3d."""


def margin(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's SAME."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def padded(x: torch.Tensor, kernel: tuple[int, int, int], stride: tuple[int, int, int]):
    t, h, w = (margin(x.shape[2 + i], kernel[i], stride[i]) for i in range(3))
    return functional.pad(x, [w[0], w[1], h[0], h[1], t[0], t[1]])


class Pool(torch.nn.Module):
    def __init__(self, kernel: tuple[int, int, int], stride: tuple[int, int, int]):
        super().__init__()
        self.kernel, self.stride = kernel, stride
        self.pool = torch.nn.MaxPool3d(kernel, stride)

    def forward(self, x: torch.Tensor):
        return self.pool(padded(x, self.kernel, self.stride))


class Unit3D(torch.nn.Module):
    def __init__(self, into: int, out: int, kernel: int, stride: int = 1):
        super().__init__()
        self.kernel, self.stride = (kernel, kernel, kernel), (stride, stride, stride)
        self.conv3d = torch.nn.Conv3d(into, out, kernel, stride, bias=False)
        self.batch3d = torch.nn.BatchNorm3d(out, eps=1e-3)
        self.padding = "SAME"

    def forward(self, x: torch.Tensor):
        return torch.relu(self.batch3d(self.conv3d(padded(x, self.kernel, self.stride))))


class Mixed(torch.nn.Module):
    def __init__(self, into: int, out: tuple[int, ...]):
        super().__init__()
        self.branch_0 = Unit3D(into, out[0], 1)
        self.branch_1 = torch.nn.Sequential(Unit3D(into, out[1], 1), Unit3D(out[1], out[2], 3))
        self.branch_2 = torch.nn.Sequential(Unit3D(into, out[3], 1), Unit3D(out[3], out[4], 3))
        pool = Pool((3, 3, 3), (1, 1, 1))
        self.branch_3 = torch.nn.Sequential(pool, Unit3D(into, out[5], 1))

    def forward(self, x: torch.Tensor):
        return torch.cat(
            [self.branch_0(x), self.branch_1(x), self.branch_2(x), self.branch_3(x)], 1
        )


class I3D(torch.nn.Module):
    """The detector, called as StyleGAN-V calls its own."""

    def __init__(self, size: int = 224):
        super().__init__()
        self.size = size
        self.conv3d_1a_7x7 = Unit3D(3, STEM[0], 7, 2)
        self.pool_2a = Pool((1, 3, 3), (1, 2, 2))
        self.conv3d_2b_1x1 = Unit3D(STEM[0], STEM[1], 1)
        self.conv3d_2c_3x3 = Unit3D(STEM[1], STEM[2], 3)
        self.pool_3a = Pool((1, 3, 3), (1, 2, 2))
        into = STEM[2]
        for name, out in CHANNELS.items():
            setattr(self, f"mixed_{name}", Mixed(into, out))
            into = out[0] + out[2] + out[4] + out[5]
        self.pool_4a = Pool((3, 3, 3), (2, 2, 2))
        self.pool_5a = Pool((2, 2, 2), (2, 2, 2))
        self.avg_pool = torch.nn.AvgPool3d((2, size // 32, size // 32), 1)
        self.conv3d_0c_1x1 = torch.nn.ModuleDict({"conv3d": torch.nn.Conv3d(into, CLASSES, 1)})

    def forward(self, x: torch.Tensor, rescale: bool, resize: bool, return_features: bool):
        x = x.float()
        if resize:
            size = [x.shape[2], self.size, self.size]
            x = functional.interpolate(x, size=size, mode="trilinear", align_corners=False)
        if rescale:
            x = x / 255 * 2 - 1
        x = self.conv3d_2c_3x3(self.conv3d_2b_1x1(self.pool_2a(self.conv3d_1a_7x7(x))))
        x = self.pool_4a(self.mixed_3c(self.mixed_3b(self.pool_3a(x))))
        x = self.mixed_4e(self.mixed_4d(self.mixed_4c(self.mixed_4b(x))))
        x = self.mixed_5c(self.mixed_5b(self.pool_5a(self.mixed_4f(x))))
        x = self.conv3d_0c_1x1["conv3d"](self.avg_pool(x))
        logits = x.squeeze(3).squeeze(3).mean(2)
        return logits if return_features else logits.softmax(1)


def peer(size: int = 224) -> I3D:
    """The network with random weights and statistics, none of them left at a constant."""
    torch.manual_seed(0)
    module = I3D(size).eval()
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if name.endswith(("running_var", "batch3d.weight")):
                tensor.uniform_(0.5, 1.5)
            elif name.endswith(("running_mean", "bias")):
                tensor.normal_(0, 0.2)
            elif tensor.dtype == torch.float32:
                tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5)
    return module


def in_the_other_naming(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state dict as pytorch-i3d names it."""
    renamed = {}
    for name, tensor in state.items():
        for ours, theirs in THEIRS.items():
            name = name.replace(ours, theirs)
        renamed[name] = tensor
    return renamed
