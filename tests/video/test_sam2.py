"""SAM 2's network against transformers' Sam2VideoModel on the same random weights; and its files."""

from functools import partial
from types import SimpleNamespace

import folder_paths
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from comfy import model_management
from PIL import Image
from safetensors.torch import save_file
from torch.utils.flop_counter import FlopCounterMode
from transformers import EdgeTamVideoConfig, EdgeTamVideoModel, Sam2Config, Sam2Model, Sam2VideoConfig, Sam2VideoModel

from kit.assertions import relative_error
from kit.sam2 import CHANNELS, CONFIG, FRAME, authors, golden, load, lowered, make_sam2, reference
from kit.tensors import rand, randn
from pentimento.model_patchers.arch import sam2_decoder, sam2_hiera, sam2_memory, sam2_network
from pentimento.model_patchers.arch.sam2_bank import Bank
from pentimento.model_patchers.video import sam2 as ours
from pentimento.nodes.video.sam2 import LoadSAM2
from pentimento_host import standins

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


def distances(found, expected):
    return [relative_error(*pair) for pair in zip(found, expected, strict=True)]


def tolerances(float32, part, model, precision, *inputs):
    """How far the results of a part may be off; in half precision, as far as transformers' own are."""
    if not precision.is_half:
        return [float32] * len(part(model, *inputs))
    exact, lower = part(model, *inputs), part(lowered(model, precision), *inputs)
    return [
        precision.tolerance(float32, *pair[:1], lambda pair=pair: pair[1]) for pair in zip(exact, lower, strict=True)
    ]


def compare(sam2, theirs, precision, our_part, their_part, *inputs, float32=NEAR):
    """The largest of a part's distances, each relative to how far it may be off."""
    limits = tolerances(float32, their_part, theirs, precision, *inputs)
    found = distances(our_part(sam2, *inputs), their_part(theirs, *inputs))
    return max(distance / limit for distance, limit in zip(found, limits, strict=True))


@pytest.mark.both_devices
@pytest.mark.in_half
def test_the_image_encoder_equals_transformers(sam2, theirs, precision):
    assert compare(sam2, theirs, precision, our_encode, their_encode) < 1


@pytest.mark.both_devices
@pytest.mark.in_half
def test_the_attention_to_the_memory_equals_transformers(sam2, theirs, precision):
    assert compare(sam2, theirs, precision, our_attend, their_attend) < 1


@pytest.mark.both_devices
@pytest.mark.in_half
@pytest.mark.parametrize(
    "prompted, present", [(True, 1.0), (False, 1.0), (False, -1.0)], ids=["prompted", "tracked", "absent"]
)
def test_the_memory_of_a_frame_equals_transformers(sam2, theirs, precision, prompted, present):
    assert compare(sam2, theirs, precision, our_remember, their_remember, prompted, present) < 1


@pytest.mark.both_devices
@pytest.mark.in_half
@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)
def test_the_decoder_equals_transformers(sam2, theirs, prompt):
    """It computes in float32, whatever the precision."""
    expected = their_decode(theirs, *prompt)
    found = our_decode(sam2, *prompt)
    assert max(distances(found, expected)) < NEAR
    assert 0.02 < (found[0] > 0).float().mean() < 0.98 and (found[3] > 0).all()


def test_an_absent_object_has_no_mask_and_its_own_pointer(theirs):
    absent = reference(is_21=theirs.config.enable_occlusion_spatial_embedding, present=-3.0)
    sam2 = load(absent.state_dict())
    found = our_decode(sam2, *PROMPTS["click"])
    assert max(distances(found, their_decode(absent, *PROMPTS["click"]))) < NEAR
    assert (found[0] == sam2_network.ABSENT).all() and torch.equal(found[2], sam2.network.no_obj_ptr)


def test_a_mask_that_is_not_stable_gives_way_to_the_best_of_three():
    """With the token that stays mask 0's, as in the original; transformers agrees on random masks of both kinds."""
    model = reference().mask_decoder
    stable = 0
    for seed in range(8):
        logits, scores = randn(1, 4, 16, 16, seed=seed), rand(1, 4, seed=seed)
        logits[:, 0] *= 0.2 if seed % 2 else 20  # of few logits near 0, or of many
        masks = sam2_decoder.Masks(logits, scores, randn(1, 4, 8, seed=seed), torch.ones(1, 1))
        mask, score, token = sam2_decoder.choose(masks, ambiguous=False)
        expected, expected_score = model._dynamic_multimask_via_stability(logits[:, None], scores[:, None])
        assert torch.equal(mask, expected[:, 0]) and torch.equal(score, expected_score[0, 0])
        assert torch.equal(token, masks.tokens[:, 0])
        stable += torch.equal(mask[0], logits[0, :1])
        best = sam2_decoder.choose(masks, ambiguous=True)
        assert torch.equal(best[0], logits[:, 1 + scores[0, 1:].argmax()][:, None])
    assert 0 < stable < 8
    assert sam2_decoder.stability(torch.full((1, 4, 4), -1.0)) == 1


def key_frame(name):
    """Our answer on the first key frame and the memory of it; the authors' answer, and their memory of frame 0."""
    sam2, kept = golden(name)
    frame, kind, prompt = make_sam2.SCENARIOS[name][1][1][0]
    picture = torch.from_numpy(make_sam2.clip()[frame]).float() / 255
    seen = sam2.encode(picture)
    if kind == "mask":
        drawn = torch.from_numpy(make_sam2.mask())[None, None].float()
        square = F.interpolate(drawn, (FRAME, FRAME), mode="bilinear", antialias=True) >= 0.5
        answer = sam2.network.from_mask(seen, square.float().to(sam2.device))
    else:
        scale = FRAME / torch.tensor([picture.shape[1], picture.shape[0]])
        points = prompt.get("points") or [prompt["box"][:2], prompt["box"][2:]]
        coords, labels = torch.tensor([points]) * scale, torch.tensor([prompt.get("labels", [2, 3])])
        image = sam2.network.without_memory(seen)
        answer = sam2.network.decode(image, seen, coords.to(sam2.device), labels.to(sam2.device))
    memory = sam2.network.remember(seen, answer.logits, answer.present, prompted=True)
    step = make_sam2.STEP
    found = [answer.logits[:, 0, ::step, ::step], answer.pointer, answer.present, memory[..., ::step, ::step]]
    return found, [*(kept[key][:1, frame] for key in ("logits", "pointers", "present")), kept["memory of frame 0"][:1]]


@pytest.mark.both_devices
@pytest.mark.parametrize("name", ["mask", "mask, 2.0", "click", "seldom there", "two key frames"])
def test_a_key_frame_equals_the_authors_code(name):
    found, theirs = key_frame(name)
    assert max(distances(found[:3], theirs[:3])) < NEAR
    if name.startswith("mask"):  # on frame 0, whose memory is kept
        assert relative_error(found[3], theirs[3]) < 2**-8  # theirs is rounded to bfloat16


def test_the_best_of_three_is_no_pointer_of_a_mask(monkeypatch):
    """transformers takes it."""
    answer = sam2_network.Network._answer
    monkeypatch.setattr(sam2_network.Network, "_answer", lambda *args, ambiguous: answer(*args, ambiguous=True))
    found, theirs = key_frame("mask")
    assert relative_error(found[1], theirs[1]) > FAR


@pytest.mark.both_devices
def test_objects_together_equal_each_alone(sam2):
    network, device = sam2.network, sam2.device
    coords, labels = (FRAME * rand(3, 2, 2, seed=8)).to(device), torch.ones(3, 2, dtype=torch.long, device=device)
    mask = (rand(3, 1, FRAME, FRAME, seed=9) > 0.7).float().to(device)
    image = network.without_memory(features(sam2))
    together = [network.decode(image, features(sam2), coords, labels), network.from_mask(features(sam2), mask)]
    memory = [network.remember(features(sam2), each.logits, each.present, True) for each in together]
    for i in range(3):
        one = slice(i, i + 1)
        alone = [
            network.decode(image, features(sam2), coords[one], labels[one]),
            network.from_mask(features(sam2), mask[one]),
        ]
        for each, many, remembered in zip(alone, together, memory, strict=True):
            for name in ("logits", "score", "pointer", "present"):
                assert relative_error(getattr(each, name), getattr(many, name)[one]) < NEAR
            again = network.remember(features(sam2), each.logits, each.present, True)
            assert relative_error(again, remembered[one]) < NEAR


# The comparison would notice


def positions_by_bilinear_resizing(monkeypatch, sam2):
    resize = F.interpolate

    def wrong(x, *args, mode, **kwargs):
        return resize(x, *args, mode="bilinear" if mode == "bicubic" else mode, **kwargs)

    monkeypatch.setattr(sam2_hiera, "F", SimpleNamespace(**vars(F) | {"interpolate": wrong}))


def windows_of_the_new_stage(monkeypatch, sam2):
    trunk = sam2.network.image_encoder.trunk
    for stage, end in enumerate(trunk.ends[:-1]):
        monkeypatch.setattr(trunk.blocks[end + 1], "window", CONFIG.windows[stage + 1])


def turned_pointers(monkeypatch, sam2):
    def forward(self, q, k, v, turns, unplaced=0):
        q, k, v = self.q_proj(q), self.k_proj(k), self.v_proj(v)
        placed = k.shape[1] - unplaced
        first = [angles[:unplaced] for angles in turns]
        turned = [sam2_memory.rotate(k[:, :placed], turns)]
        turned += [sam2_memory.rotate(k[:, placed:], first)] if unplaced else []
        return self.out_proj(F.scaled_dot_product_attention(sam2_memory.rotate(q, turns), torch.cat(turned, dim=1), v))

    monkeypatch.setattr(sam2_memory.Attention, "forward", forward)


def whole_positions(monkeypatch, sam2):
    sine_map = sam2_memory.sine_map
    monkeypatch.setattr(sam2_memory, "sine_map", lambda *args: 10 * sine_map(*args))


def unsigned_distances(monkeypatch, sam2):
    sine_line = sam2_network.sine_line
    monkeypatch.setattr(sam2_network, "sine_line", lambda position, channels: sine_line(position.abs(), channels))


def mask_of_probabilities(monkeypatch, sam2):
    monkeypatch.setattr(sam2_network, "SURE", 1.0)


WRONG = {
    "positions by bilinear resizing": (positions_by_bilinear_resizing, our_encode, their_encode),
    "windows of the new stage": (windows_of_the_new_stage, our_encode, their_encode),
    "turned pointers": (turned_pointers, our_attend, their_attend),
    "whole positions": (whole_positions, our_attend, their_attend),
    "unsigned distances": (unsigned_distances, our_attend, their_attend),
    "a mask of -1 ... 1": (mask_of_probabilities, our_remember, their_remember, False, 1.0),
}


@pytest.mark.in_half
@pytest.mark.parametrize("theirs", ["2.1"], indirect=True)
@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_variant_is_told(sam2, theirs, precision, monkeypatch, name):
    wrong, *part = WRONG[name]
    wrong(monkeypatch, sam2)
    assert compare(sam2, theirs, precision, *part, float32=FAR) > 1


# Frames


def original_input(levels):
    """`_load_img_as_tensor` of sam2/utils/misc.py, and the normalisation after it."""
    pixels = np.array(Image.fromarray(levels).convert("RGB").resize((1024, 1024))) / 255.0
    x = torch.from_numpy(pixels).permute(2, 0, 1).to(torch.float32)
    x -= torch.tensor((0.485, 0.456, 0.406))[:, None, None]
    x /= torch.tensor((0.229, 0.224, 0.225))[:, None, None]
    return x[None]


@pytest.mark.parametrize("size", [(90, 121), (1080, 1920), (1024, 1024)])
def test_frames_are_resized_as_in_the_original(size):
    levels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    levels[:16, :16] = np.arange(256).reshape(16, 16, 1)  # each level, whatever the size
    assert torch.equal(ours.preprocess(levels, 1024), original_input(levels))


def test_a_frame_is_encoded_from_its_levels(sam2):
    picture = rand(90, 121, 3)
    levels = (picture * 255).round().byte().numpy()
    expected = sam2.network.encode(ours.preprocess(levels, FRAME).to(sam2.device))
    assert torch.equal(sam2.encode(picture).raw, expected.raw)


# Files


SIZES = {  # of the published files: width, heads, blocks, global blocks, windows, positions; parameters, keys of 2.1
    "tiny": (96, 1, [1, 2, 7, 2], [5, 7, 9], [8, 4, 14, 7], 7, 38.96, 471),
    "small": (96, 1, [1, 2, 11, 2], [7, 10, 13], [8, 4, 14, 7], 7, 46.06, 519),
    "base+": (112, 2, [2, 3, 16, 3], [12, 16, 20], [8, 4, 14, 7], 14, 80.85, 615),
    "large": (144, 2, [2, 6, 36, 4], [23, 33, 43], [8, 4, 16, 8], 7, 224.45, 903),
}


def published(size, is_21):
    """transformers' model of a published size, without memory for its weights."""
    width, heads, blocks, global_blocks, windows, positions, *_ = SIZES[size]
    trunk = {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": width,
        "num_attention_heads": heads,
        "blocks_per_stage": blocks,
        "embed_dim_per_stage": [width, 2 * width, 4 * width, 8 * width],
        "num_attention_heads_per_stage": [heads, 2 * heads, 4 * heads, 8 * heads],
        "window_size_per_stage": windows,
        "global_attention_blocks": global_blocks,
        "window_positional_embedding_background_size": [positions, positions],
    }
    vision = {
        "model_type": "sam2_vision_model",
        "backbone_config": trunk,
        "backbone_channel_list": [8 * width, 4 * width, 2 * width, width],
    }
    config = Sam2VideoConfig(
        vision_config=vision,
        enable_occlusion_spatial_embedding=is_21,
        enable_temporal_pos_encoding_for_object_pointers=is_21,
    )
    with torch.device("meta"):
        return Sam2VideoModel(config)


@pytest.mark.parametrize("is_21", [True, False], ids=["2.1", "2.0"])
@pytest.mark.parametrize("size", SIZES)
def test_the_published_sizes_are_told_by_their_tensors(size, is_21):
    *shape, positions, millions, keys = SIZES[size]
    weights = ours.sam2_weights(dict(published(size, is_21).state_dict()), "test.safetensors")
    network = sam2_network.Network(weights, torch.device("meta"), torch.float32)
    own = {name: value.shape for name, value in network.state_dict().items()}
    assert own == {name: value.shape for name, value in weights.items() if name != "no_mem_pos_enc"}
    assert len(weights) == keys - (0 if is_21 else 3)
    assert sum(value.numel() for value in weights.values()) / 1e6 == pytest.approx(millions, abs=0.03)
    config = sam2_hiera.PUBLISHED[size]
    assert [config.width, config.heads, *map(list, (config.blocks, config.global_blocks, config.windows))] == shape
    trunk = network.image_encoder.trunk
    assert network.grid == 64 and trunk.pos_embed.shape[-1] == positions and len(trunk.blocks) == sum(config.blocks)


@pytest.mark.parametrize(("size", "encoding", "share"), [("tiny", 292, 0.68), ("large", 1823, 0.25)])
def test_a_further_object_costs_a_part_of_the_first(size, encoding, share):
    """In 10^9 operations a frame, where the memory is full: one key frame, six frames and sixteen pointers.

    A multiplication and an addition count as two. Only the encoding of the frame depends on the size of the network.
    """
    weights = ours.sam2_weights(dict(published(size, True).state_dict()), "test.safetensors")
    network = sam2_network.Network(weights, torch.device("meta"), torch.float32)

    def counted(step):
        with FlopCounterMode(display=False) as counter:
            result = step()
        return counter.get_total_flops() / 1e9, result

    with torch.inference_mode(), torch.device("meta"):
        memory, pointer = torch.empty(1, 64, 64, 64), torch.empty(1, 256)
        earlier = range(1, 20)
        bank = Bank(20, {0: (memory, pointer)}, dict.fromkeys(earlier, memory), dict.fromkeys(earlier, pointer))
        encoded, features = counted(lambda: network.encode(torch.empty(1, 3, 1024, 1024)))
        attended, image = counted(lambda: network.attend(features, *bank.read(network, 20, 1)))
        decoded, answer = counted(lambda: network.decode(image, features))
        remembered, _ = counted(lambda: network.remember(features, answer.logits, answer.present, prompted=False))
    further = attended + decoded + remembered
    assert (round(encoded), round(attended), round(decoded), round(remembered)) == (encoding, 606, 4, 12)
    assert further / (encoded + further) == pytest.approx(share, abs=0.01)


@pytest.mark.parametrize("form", ["pt", "safetensors", "transformers", "half"])
def test_files(theirs, sam2, form, tmp_path, monkeypatch):
    weights = {name: value.contiguous() for name, value in authors(theirs).items()}
    path = tmp_path / ("sam2.pt" if form == "pt" else "sam2.safetensors")
    if form == "pt":
        torch.save({"model": weights}, path)
    elif form == "transformers":
        theirs.save_pretrained(tmp_path)
        path = tmp_path / "model.safetensors"
    else:
        save_file({name: value.bfloat16() if form == "half" else value for name, value in weights.items()}, path)
    monkeypatch.setattr(ours, "SAM2", partial(ours.SAM2, config=CONFIG, frame=FRAME))
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "sams", ([str(tmp_path)], {".pt", ".safetensors"}))
    loaded = LoadSAM2.execute(path.name, "fp32").result[0]
    loaded.load()
    found = our_encode(loaded)[2]
    assert relative_error(found, our_encode(sam2)[2]) < (0.03 if form == "half" else 1e-7)
    with pytest.raises(FileNotFoundError, match="models/sam2 or models/sams"):
        LoadSAM2.execute("none.pt", "auto")


def meta(model, config):
    with torch.device("meta"):
        return dict(model(config).state_dict())


OTHERS = {
    "edgetam": (lambda: meta(EdgeTamVideoModel, EdgeTamVideoConfig()), "EdgeTAM"),
    "edgetam's own file": (["image_encoder.trunk.body.stem.weight", "maskmem_tpos_enc"], "EdgeTAM"),
    "sam 3": (["detector.backbone.vision_backbone.trunk.pos_embed", "tracker.maskmem_tpos_enc"], "SAM 3, for ComfyUI"),
    "without memory": (
        ["image_encoder.trunk.pos_embed_window", "sam_mask_decoder.iou_token.weight"],
        "single pictures",
    ),
    "transformers without memory": (lambda: meta(Sam2Model, Sam2Config()), "SAM 2 for single pictures"),
    "efficienttam": (["model.image_encoder.trunk.pos_embed", "model.maskmem_tpos_enc"], "EfficientTAM"),
    "sam": (["image_encoder.pos_embed", "mask_decoder.iou_token.weight"], "SAM for single pictures, for Load SAM"),
    "transformers' sam": (
        ["vision_encoder.pos_embed", "mask_decoder.iou_token.weight"],
        "SAM in the layout of Hugging",
    ),
    "another": (["model.diffusion_model.out.0.weight"], "1 tensors such as 'model.diffusion_model.out.0.weight'"),
}


@pytest.mark.parametrize("weights, message", OTHERS.values(), ids=OTHERS)
def test_other_networks_are_named(weights, message):
    weights = weights() if callable(weights) else {name: torch.zeros(1) for name in weights}
    with pytest.raises(ValueError, match=message) as error:
        ours.sam2_weights(weights, "other.pt")
    assert "'other.pt' holds " in str(error.value) and "sam2.1_hiera_tiny.pt" in str(error.value)


def test_incomplete_altered_and_unknown_files_are_told(theirs):
    weights = authors(theirs)
    with pytest.raises(
        ValueError, match="^'test.pt' is no whole SAM 2: it has 8 blocks of width 16, and SAM 2 has 12 "
    ):
        ours.SAM2(ours.sam2_weights(weights, "test.pt"), "test.pt")
    part = {name: value for name, value in weights.items() if name != "obj_ptr_proj.layers.2.bias"}
    with pytest.raises(ValueError, match="incomplete SAM 2: it lacks 1 tensors such as 'obj_ptr_proj.layers.2.bias'"):
        load(part)
    with pytest.raises(ValueError, match="1 tensors that SAM 2 does not have, such as 'adapter.weight'"):
        load(weights | {"adapter.weight": torch.zeros(1)})
    mixed = {name: value for name, value in weights.items() if name != "no_obj_embed_spatial"}
    if "no_obj_embed_spatial" in weights:
        with pytest.raises(ValueError, match="lacks 1 tensors such as 'no_obj_embed_spatial'"):
            load(mixed)


def test_auto_is_bf16_where_it_is_supported(theirs, monkeypatch):
    for supported, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(model_management, "should_use_bf16", lambda *args, supported=supported: supported)
        network = load(theirs.state_dict(), "auto").network
        assert network.dtype == dtype == network.memory_encoder.out_proj.weight.dtype
        assert network.mask_decoder.conv_s0.weight.dtype == torch.float32


def test_the_stand_in_is_a_tiny(tmp_path):
    path = tmp_path / "standin-sam2.1_hiera_tiny.pt"
    standins.sam2(path)
    assert path.stat().st_size < 12e6
    sam2 = ours.load(path, "fp32")
    own = ours.sam2_weights(dict(published("tiny", True).state_dict()), path.name)
    shapes = {name: value.shape for name, value in own.items() if name != "no_mem_pos_enc"}
    assert shapes == {name: value.shape for name, value in sam2.network.state_dict().items()}
    frame = sam2_decoder.Features(randn(1, 32, 256, 256), randn(1, 64, 128, 128), randn(1, 256, 64, 64))
    sam2.load()
    answer = sam2.network.decode(frame.raw, frame, torch.tensor([[[400.0, 300.0]]]), torch.tensor([[1]]))
    assert answer.present > 0 and 0.02 < (answer.logits > 0).float().mean() < 0.9
