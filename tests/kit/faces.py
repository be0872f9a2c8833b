"""Face meshes with five known points, and face models as Load Upscale Model gives them."""

import comfy.model_patcher
import numpy as np
import torch
from comfy import model_management
from spandrel import ImageModelDescriptor
from spandrel.architectures.GFPGAN import GFPGAN, GFPGANArch
from torch import nn

from pentimento.model_patchers.edit.face_align import POINTS, TEMPLATE


class Echo(nn.Module):
    """A face model that gives what it is given, with a part of the fidelity added, and keeps how it was called."""

    def __init__(self, change=0.0):
        super().__init__()
        self.anchor, self.change, self.calls = nn.Parameter(torch.zeros(1)), change, []

    def forward(self, x, weight=0.5, **rest):
        self.calls.append((x.clone(), weight, rest))
        return x + self.change + self.anchor, None


def face_model(network, **changes):
    """The descriptor of a network, with ComfyUI's patcher, as Load Upscale Model gives it."""
    facts = {"purpose": "FaceSR", "scale": 1, "supports_half": False, "supports_bfloat16": True, "tags": []} | changes
    weights = network.state_dict()
    descriptor = ImageModelDescriptor(
        network, weights, architecture=GFPGANArch(), input_channels=3, output_channels=3, **facts
    )
    devices = model_management.get_torch_device(), model_management.unet_offload_device()
    descriptor.patcher = comfy.model_patcher.CoreModelPatcher(network.eval(), *devices)
    return descriptor


def seeded(network, seed=0):
    """The network with random weights that keep the size of what passes through."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            spread = 0.1 if parameter.ndim < 2 else max(parameter[0].numel(), 1) ** -0.5
            parameter.copy_(spread * torch.randn(parameter.shape, generator=generator))
    return network


def thin_gfpgan(seed=0):
    """GFPGAN's class, 16 to 2 channels wide. Its noise counts."""
    network = seeded(GFPGAN(num_style_feat=16, num_mlp=1, narrow=1 / 16), seed)
    generator = torch.Generator().manual_seed(seed + 1)
    for noise in network.stylegan_decoder.noises.buffers():
        noise.copy_(torch.randn(noise.shape, generator=generator))
    return network


def thin_codeformer(seed=0):
    """CodeFormer's class with one layer of its transformer, and cheap layers in place of its large convolutions."""
    from spandrel_extra_arches.architectures.CodeFormer import CodeFormer
    from spandrel_extra_arches.architectures.CodeFormer.__arch import codeformer

    def cheap(block):
        if isinstance(block, codeformer.ResBlock):
            same = block.in_channels == block.out_channels
            return nn.Identity() if same else nn.Conv2d(block.in_channels, block.out_channels, 1)
        resized = {codeformer.Downsample: nn.AvgPool2d(2), codeformer.Upsample: nn.Upsample(scale_factor=2)}
        return resized.get(type(block), block)

    network = CodeFormer(dim_embd=32, n_head=2, n_layers=1, codebook_size=16, connect_list=["32"])
    for part in (network.encoder, network.generator):
        part.blocks = nn.ModuleList(map(cheap, part.blocks))
    return seeded(network, seed)


def mesh(points, count=478):
    """A face mesh whose five points, (5, 2), are these: the corners of an eye lie on both sides of it."""
    landmarks = np.full((count, 2), 7.0, dtype=np.float32)
    for numbers, point in zip(POINTS, np.asarray(points), strict=True):
        offsets = [[0, 0]] if len(numbers) == 1 else [[-3, 1], [3, -1]]
        landmarks[list(numbers)] = point + np.array(offsets)
    return landmarks


def landmarks(size, *frames, count=478):
    """ComfyUI's FACE_LANDMARKS: for each picture of `size`, (H, W), the five points of its faces."""
    faces = [[{"landmarks_xy": mesh(points, count)} for points in frame] for frame in frames]
    return {"frames": faces, "image_size": size, "connection_sets": {}}


def placed(x, y, size=100, degrees=0.0):
    """Five points as the template has them, about (x, y), `size` pixels large and turned."""
    angle = np.deg2rad(degrees)
    turn = size / 512 * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return (TEMPLATE - 255.5) @ turn.T + [x, y]
