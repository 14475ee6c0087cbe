"""ResNet-18, 34 and 50 without pooling and classifier: normalized images to the last feature map.

Tensor names end in their axes: B batch, C channels, H W pixels or cells.
"""

from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.cli.command import UserError, one_line

NORM_EPS = 1e-5  # torchvision's BatchNorm2d
STAGE_CHANNELS = (64, 128, 256, 512)
# Blocks per stage, and whether they are bottlenecks: He et al. 2015, table 1.
ARCHITECTURES = {
    "resnet18": ((2, 2, 2, 2), False),
    "resnet34": ((3, 4, 6, 3), False),
    "resnet50": ((3, 4, 6, 3), True),
}
# torchvision's names for its ImageNet weights, and where it fetches them from.
WEIGHTS_URLS = {
    "ResNet18_Weights.IMAGENET1K_V1": "https://download.pytorch.org/models/resnet18-f37072fd.pth",
    "ResNet34_Weights.IMAGENET1K_V1": "https://download.pytorch.org/models/resnet34-b627a593.pth",
    "ResNet50_Weights.IMAGENET1K_V1": "https://download.pytorch.org/models/resnet50-0676ba61.pth",
    "ResNet50_Weights.IMAGENET1K_V2": "https://download.pytorch.org/models/resnet50-11ad3fa6.pth",
}


class FrozenBatchNorm2d(nn.Module):
    """A batch norm with constant statistics and affine parameters. It is folded into a convolution and never called."""

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor
    folded_weight: Tensor | None
    folded_bias: Tensor | None

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.register_buffer("folded_weight", None, persistent=False)
        self.register_buffer("folded_bias", None, persistent=False)

    def fold(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return weight (in channels_last) and bias of the convolution that includes this norm."""
        if self.folded_weight is not None and self.folded_bias is not None:
            return self.folded_weight, self.folded_bias
        scale_C = self.weight * (self.running_var + NORM_EPS).rsqrt()
        bias = self.bias - self.running_mean * scale_C
        if weight.shape[-1] == 1:
            # A 1x1 kernel has both layouts at once. As a matrix product, its gradient has the parameter's own strides, which
            # DistributedDataParallel's buckets expect.
            return (weight.flatten(1) * scale_C[:, None])[:, :, None, None], bias
        # Change the layout before the product, so that the backward pass need not.
        return weight.contiguous(memory_format=torch.channels_last) * scale_C[:, None, None, None], bias


class _Block(nn.Module):
    """Two 3x3 convolutions, or a 1x1, 3x3, 1x1 bottleneck, with a residual."""

    def __init__(self, channels_in: int, channels: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        channels_out = channels * 4 if bottleneck else channels
        if bottleneck:
            self.conv1, self.bn1 = _conv(channels_in, channels, 1), FrozenBatchNorm2d(channels)
            self.conv2, self.bn2 = _conv(channels, channels, 3, stride), FrozenBatchNorm2d(channels)
            self.conv3, self.bn3 = _conv(channels, channels_out, 1), FrozenBatchNorm2d(channels_out)
        else:
            self.conv1, self.bn1 = _conv(channels_in, channels, 3, stride), FrozenBatchNorm2d(channels)
            self.conv2, self.bn2 = _conv(channels, channels, 3), FrozenBatchNorm2d(channels)
        self.bottleneck = bottleneck
        self.downsample: nn.Sequential | None = None
        if stride != 1 or channels_in != channels_out:
            self.downsample = nn.Sequential(
                _conv(channels_in, channels_out, 1, stride), FrozenBatchNorm2d(channels_out)
            )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y = _convolve(x_BCHW, self.conv1, self.bn1).relu_()
        y = _convolve(y, self.conv2, self.bn2)
        if self.bottleneck:
            y = _convolve(y.relu_(), self.conv3, self.bn3)
        skip = x_BCHW if self.downsample is None else _convolve(x_BCHW, *self.downsample)
        return y.add_(skip).relu_()


class ResNet(nn.Module):
    """A ResNet up to and including layer4, with torchvision's parameter names and initialization."""

    def __init__(self, name: str) -> None:
        super().__init__()
        n_blocks, bottleneck = ARCHITECTURES[name]
        self.conv1 = _conv(3, 64, 7, 2)
        self.bn1 = FrozenBatchNorm2d(64)
        self.channels = 64
        for stage, (channels, n) in enumerate(zip(STAGE_CHANNELS, n_blocks, strict=True), 1):
            blocks = []
            for i in range(n):
                stride = 2 if stage > 1 and i == 0 else 1
                blocks.append(_Block(self.channels, channels, stride, bottleneck))
                self.channels = channels * 4 if bottleneck else channels
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Normalized images (B, 3, H, W) -> features (B, channels, about H/32, about W/32), channels_last."""
        x = image_BCHW.contiguous(memory_format=torch.channels_last)
        x = _convolve(x, self.conv1, self.bn1).relu_()
        x = F.max_pool2d(x, 3, stride=2, padding=1)
        for stage in range(1, len(STAGE_CHANNELS) + 1):
            x = self.get_submodule(f"layer{stage}")(x)
        return x

    @torch.no_grad()
    def fold(self) -> None:
        """Fold the norms once and for all, for inference; weights loaded or trained afterwards would not be seen."""
        convs = [module for module in self.modules() if isinstance(module, nn.Conv2d)]
        norms = [module for module in self.modules() if isinstance(module, FrozenBatchNorm2d)]
        for conv, norm in zip(convs, norms, strict=True):  # each convolution is declared right before its norm
            norm.folded_weight, norm.folded_bias = norm.fold(conv.weight)


def load_backbone_weights(backbone: ResNet, source: str) -> None:
    """Load weights into `backbone` from `source`: the name of torchvision weights or a local .pth or .safetensors file.

    A name is searched for in torch.hub's checkpoint folder and downloaded if it is not there. The classifier (`fc.`) and
    `num_batches_tracked` are ignored. Raises UserError naming the tensor that does not fit.
    """
    weights = {
        key: tensor
        for key, tensor in _read(source).items()
        if not key.startswith("fc.") and not key.endswith("num_batches_tracked")
    }
    problem = find_misfit(weights, backbone)
    if problem:
        raise UserError(
            f"model.pretrained_backbone_weights={source}: {problem}; give weights of the same model.vision_backbone"
        )
    backbone.load_state_dict(weights)


def find_misfit(weights: Mapping[str, Tensor], module: nn.Module) -> str | None:
    """Return the first tensor that is missing, surplus, or of another shape than the module's; None when all fit."""
    own = module.state_dict()
    for key in sorted(own.keys() | weights.keys()):
        found, expected = (tuple(tensors[key].shape) if key in tensors else None for tensors in (weights, own))
        if found != expected:
            shown = "missing" if found is None else found
            return f"{key} is {shown}, expected {'no such tensor' if expected is None else expected}"
    return None


def _conv(channels_in: int, channels_out: int, size: int, stride: int = 1) -> nn.Conv2d:
    conv = nn.Conv2d(channels_in, channels_out, size, stride, padding=size // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


def _convolve(x_BCHW: Tensor, conv: nn.Conv2d, norm: FrozenBatchNorm2d) -> Tensor:
    weight, bias = norm.fold(conv.weight)
    return F.conv2d(x_BCHW, weight, bias, conv.stride, conv.padding)


def _read(source: str) -> Mapping[str, Tensor]:
    where = f"model.pretrained_backbone_weights={source}"
    url, path = WEIGHTS_URLS.get(source), Path(source)
    if url is None and not path.is_file():
        raise UserError(
            f"{where}: no such file and no known name; give a local file or one of {', '.join(WEIGHTS_URLS)}"
        )
    try:
        if url is not None:
            return torch.hub.load_state_dict_from_url(
                url, map_location="cpu", progress=False, check_hash=True, weights_only=True
            )
        if path.suffix == ".safetensors":
            return dict(safetensors.torch.load_file(path))
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # no network, a wrong hash, and a damaged pickle can raise nearly anything
        remedy = (
            f"download {url} elsewhere and give the path of the file" if url else "give a .pth or .safetensors file"
        )
        raise UserError(f"{where}: cannot be read ({one_line(error)}); {remedy}") from error
