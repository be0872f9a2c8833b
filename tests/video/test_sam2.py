"""SAM 2's network against transformers' Sam2VideoModel on the same random weights; and its files."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from transformers import EdgeTamVideoConfig, EdgeTamVideoModel, Sam2Config, Sam2Model, Sam2VideoConfig, Sam2VideoModel

from kit.assertions import relative_error
from kit.sam2 import CHANNELS, FRAME, load, lowered, reference
from kit.tensors import rand, randn
from pentimento.model_patchers.arch import sam2_decoder, sam2_hiera, sam2_memory, sam2_network
from pentimento.model_patchers.video import sam2 as ours

pytestmark = pytest.mark.usefixtures("one_thread")
GRID = FRAME // 16
NEAR, FAR = 1e-5, 1e-3


@pytest.fixture(scope="module", params=["2.1", "2.0"])
def theirs(request):
    return reference(is_21=request.param == "2.1")


@pytest.fixture(scope="module")
def sam2(theirs, precision):
    return load(theirs.state_dict(), precision.name)


PIXELS = randn(1, 3, FRAME, FRAME)
FRAMES = [randn(1, 64, GRID, GRID, seed=1), randn(1, 64, GRID, GRID, seed=2)]  # remembered
AGES = [sam2_network.KEY, 2]
POINTERS, DISTANCES, MOST = randn(3, CHANNELS, seed=3), [-1, 2, 5], 12
LOGITS = F.interpolate(4 * randn(1, 1, 9, 9, seed=4), (4 * GRID, 4 * GRID), mode="bicubic")


def maps(tensor, grid=GRID):
    """transformers' (cells, B, C) -> (B, C, grid, grid)"""
    return tensor.permute(1, 2, 0).unflatten(-1, (grid, grid))


def cells(tensor):
    """(B, C, grid, grid) -> transformers' (cells, B, C)"""
    return tensor.flatten(2).permute(2, 0, 1)


def places(layer, channels):
    """transformers' positions of the cells, (cells, 1, C)."""
    return cells(layer(torch.Size((1, channels, GRID, GRID)), "cpu", torch.float32))


def their_encode(model):
    features = model.get_image_features(PIXELS, return_dict=True).fpn_hidden_states
    return [maps(each, GRID * scale) for each, scale in zip(features, (4, 2, 1), strict=True)]


def our_encode(sam2):
    features = sam2.network.encode(PIXELS.to(sam2.device))
    return [features.fine, features.middle, features.raw]


RAW = randn(1, CHANNELS, GRID, GRID, seed=5)
FEATURES = [randn(1, CHANNELS // part, scale * GRID, scale * GRID, seed=6) for part, scale in ((8, 4), (4, 2))] + [RAW]


def features(sam2):
    return sam2_decoder.Features(*(each.to(sam2.device) for each in FEATURES))


def their_attend(model):
    pointers, pointer_places = model._process_object_pointers(
        DISTANCES, list(POINTERS[:, None]), MOST, 1, CHANNELS, torch.device("cpu")
    )
    place = places(model.memory_encoder.position_encoding, 64)
    ages = [model.memory_temporal_positional_encoding[age] for age in AGES]
    attended = model.memory_attention(
        cells(RAW),
        torch.cat([*map(cells, FRAMES), pointers]),
        places(model.vision_encoder.neck.position_encoding, CHANNELS),
        torch.cat([*(place + age for age in ages), pointer_places]),
        len(pointers),
    )
    return [attended.squeeze(1).transpose(1, 2).unflatten(-1, (GRID, GRID))]


def our_attend(sam2):
    network, device = sam2.network, sam2.device
    tokens = [network.frame_tokens(frame.to(device), age) for frame, age in zip(FRAMES, AGES, strict=True)]
    distances = torch.tensor(DISTANCES, device=device) / (MOST - 1)
    tokens.append(network.pointer_tokens(POINTERS.to(device), distances))
    memory, place = (torch.cat(each, dim=1) for each in zip(*tokens, strict=True))
    return [network.attend(features(sam2), memory, place, tokens[-1][0].shape[1])]


def their_remember(model, prompted, present):
    """Not `_encode_new_memory` alone, which rounds to bfloat16."""
    mask = F.interpolate(LOGITS, (FRAME, FRAME), mode="bilinear", align_corners=False)
    share = (mask > 0).float() if prompted else mask.sigmoid()
    memory, _ = model.memory_encoder(RAW, 20 * share - 10)
    if model.occlusion_spatial_embedding_parameter is not None and present <= 0:
        memory = memory + model.occlusion_spatial_embedding_parameter[..., None, None]
    rounded, _ = model._encode_new_memory(cells(RAW), mask, torch.tensor([[present]]), prompted)
    assert relative_error(maps(rounded).float(), memory) < 0.01
    return [memory]


def our_remember(sam2, prompted, present):
    present = torch.tensor([[present]], device=sam2.device)
    return [sam2.network.remember(features(sam2), LOGITS.to(sam2.device), present, prompted)]


POINTS, LABELS = FRAME * rand(1, 3, 2, seed=7), torch.tensor([[1, 0, 1]])
PROMPTS = {
    "none": (None, None),
    "click": (POINTS[:, :1], LABELS[:, :1]),
    "clicks": (POINTS, LABELS),
    "box": (POINTS[:, :2], torch.tensor([[2, 3]])),
}


def their_decode(model, coords, labels):
    image = FEATURES[:2] + [RAW + model.no_memory_embedding[0, 0, :, None, None]]
    answer = model._single_frame_forward(
        image_embeddings=image,
        input_points=None if coords is None else coords[None],
        input_labels=None if coords is None else labels[None],
        multimask_output=coords is None or coords.shape[1] < 2,
    )
    logits = answer.pred_masks.reshape(1, 1, 4 * GRID, 4 * GRID)
    return [logits, answer.iou_scores.amax(-1)[0], answer.object_pointer[0], answer.object_score_logits[0]]


def our_decode(sam2, coords, labels):
    prompt = () if coords is None else (coords.to(sam2.device), labels.to(sam2.device))
    image = sam2.network.without_memory(features(sam2))
    answer = sam2.network.decode(image, features(sam2), *prompt)
    return [answer.logits, answer.score, answer.pointer, answer.present]


def distances(ours, theirs):
    return [relative_error(*pair) for pair in zip(ours, theirs, strict=True)]


def tolerances(float32, part, model, precision, *inputs):
    """How far the results of a part may be off; in half precision, as far as transformers' own are."""
    if not precision.is_half:
        return [float32] * len(part(model, *inputs))
    exact, lower = part(model, *inputs), part(lowered(model, precision), *inputs)
    return [
        precision.tolerance(float32, *pair[:1], lambda pair=pair: pair[1]) for pair in zip(exact, lower, strict=True)
    ]


PARTS = {
    "encode": (our_encode, their_encode),
    "attend": (our_attend, their_attend),
    "remember, prompted": (our_remember, their_remember, True, 1.0),
    "remember, tracked": (our_remember, their_remember, False, 1.0),
    "remember, absent": (our_remember, their_remember, False, -1.0),
}


@pytest.mark.both_devices
@pytest.mark.in_half
@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_equals_transformers(sam2, theirs, precision, part):
    ours, reference, *inputs = part
    near = tolerances(NEAR, reference, theirs, precision, *inputs)
    found = distances(ours(sam2, *inputs), reference(theirs, *inputs))
    assert all(distance < limit for distance, limit in zip(found, near, strict=True)), (found, near)


@pytest.mark.both_devices
@pytest.mark.in_half
@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)
def test_the_decoder_equals_transformers(sam2, theirs, prompt):
    """It computes in float32, whatever the precision."""
    expected = their_decode(theirs, *prompt)
    found = our_decode(sam2, *prompt)
    assert max(distances(found, expected)) < NEAR
    assert 0.02 < (found[0] > 0).float().mean() < 0.98 and (found[3] > 0).all()
