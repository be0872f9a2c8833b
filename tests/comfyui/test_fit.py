"""Files whose tensors have the right names and are wrong: every loader says which, what it is and what is needed."""

import re

import pytest
import torch

from kit import loaders, thin
from kit.damage import misshapen, spoilt, wrong_numbers
from pentimento.model_patchers.comfyui.fit import check_numbers, not_finite

pytestmark = pytest.mark.usefixtures("one_thread")
SHAPE = r"\((\d+,|\d+(, \d+)+)?\)"
SENTENCES = "|".join(
    (
        rf"its '[\w.]+' is {SHAPE}, and the other sizes of this [\w -]+ need {SHAPE}",
        rf"its '[\w.]+' is {SHAPE}, and needs .* (dimensions|columns|rows)",
        rf"its '[\w.]+' is {SHAPE}, and leaves no local channels",
        rf"its '[\w.]+' is {SHAPE}, the model's is {SHAPE}",
        rf"its '[\w.]+' of {SHAPE}",  # a UNet of no family
        r"tokens, .* as its 'shared\.weight' tells",
        r"lacks \d+ tensors such as '[\w.]+'",
        r"\d+ tensors that SAM( 2)? does not have, such as '[\w.]+'",
        r"\d+ (input channels|channels in)",
    )
)
# Of these the first, second or both sizes are free, since no other tensor has them: another network, and no damage.
FREE = r".*connector\.latents|.*proj_in\.weight|.*linear_1\.weight|conv_in\.weight|.*relative_attention_bias\.weight"


def every(kind, limit):
    """(key, tensor) of some tensors of a network, spread over it, `limit` at most."""
    weights = loaders.weights(kind)
    keys = [key for key in weights if not key.endswith("num_batches_tracked")]
    return [(key, weights[key]) for key in keys[:: -(-len(keys) // limit)]]


def refused(kind, key, value):
    """The sentence on a file with this tensor; None if the file is loaded."""
    try:
        loaders.LOADERS[kind]({**loaders.weights(kind), key: value})
    except ValueError as error:
        return str(error)
    return None


@pytest.mark.parametrize("kind", loaders.LOADERS)
def test_every_wrong_shape_is_named_with_the_shape_that_is_needed(kind):
    for i, (key, value) in enumerate(every(kind, 15 if kind in ("mobile sam", "sam 2", "ostrack") else 40)):
        changes = list(misshapen(value))
        for what, changed in changes[i % 2 :: 2] if kind != "unet" else changes[i % len(changes) :][:1]:
            sentence = refused(kind, key, changed)
            if sentence is None:
                assert re.fullmatch(FREE, key) and what.startswith("dimension"), (key, what)
            else:
                assert loaders.FILE in sentence and re.search(SENTENCES, sentence), (key, what, sentence)


@pytest.mark.parametrize("kind", loaders.LOADERS)
def test_the_tensors_that_tell_the_sizes_are_no_exception(kind):
    """As flat ones and as single numbers: what reads sizes off their shapes must not fail with an error of Python's."""
    for key in TELLING[kind]:
        value = loaders.weights(kind)[key]
        for changed in (value.flatten(), value.flatten()[0], value[:0], value[None]):
            assert re.search(rf"'{loaders.FILE}' is no whole .*, and needs", refused(kind, key, changed))
        without = {name: tensor for name, tensor in loaders.weights(kind).items() if name != key}
        with pytest.raises(ValueError, match=f"'{loaders.FILE}' (holds|is) "):
            loaders.LOADERS[kind](without)


TELLING = {
    "lama": ["1.ffc.convl2l.weight", "3.ffc.convl2g.weight", "13.weight"],
    "sam": [
        "image_encoder.patch_embed.proj.weight",
        "image_encoder.blocks.1.attn.rel_pos_h",
        "image_encoder.pos_embed",
        "image_encoder.neck.0.weight",
        "mask_decoder.mask_tokens.weight",
        "prompt_encoder.mask_downscaling.3.weight",
    ],
    "mobile sam": [
        "image_encoder.patch_embed.seq.2.c.weight",
        "image_encoder.layers.1.blocks.0.attn.attention_biases",
        "image_encoder.layers.1.downsample.conv1.c.weight",
    ],
    "sam-hq": ["image_encoder.pos_embed"],
    "sam 2": [
        "image_encoder.trunk.pos_embed",
        "maskmem_tpos_enc",
        "memory_attention.layers.0.linear1.weight",
        "sam_mask_decoder.mask_tokens.weight",
    ],
    "sttn": ["netG.encoder.0.weight", "netG.encoder.6.weight", "netG.decoder.4.conv.weight"],
    "ostrack": [
        "net.backbone.pos_embed_z",
        "net.backbone.pos_embed_x",
        "net.backbone.blocks.0.mlp.fc1.weight",
        "net.box_head.conv1_ctr.0.weight",
    ],
    "lpips": ["net.slice1.0.weight"],
    "ella": ["connector.latents", "time_embedding.linear_1.weight", "connector.perceiver_blocks.0.mlp.c_fc.weight"],
    "t5": ["shared.weight", "encoder.block.0.layer.0.SelfAttention.q.weight"],
    "unet": ["conv_in.weight", "conv_out.weight", "down_blocks.0.attentions.0.proj_in.weight"],
    "ic-light": ["conv_in.weight"],
}


@pytest.mark.parametrize("kind", loaders.LOADERS)
def test_values_that_are_no_numbers_are_refused(kind):
    tensors = every(kind, 8)
    for (key, value), number in zip(tensors, (torch.nan, torch.inf, -torch.inf) * 3, strict=False):
        sentence = refused(kind, key, spoilt(value, number))
        pattern = (
            rf"^'{loaders.FILE}' is damaged: 1 of its tensors hold NaN or infinity, such as '[\w.]+' \(1 of [\d,]+ "
        )
        assert re.search(pattern, sentence), (key, sentence)
    for (key, value), (name, changed) in zip(tensors, wrong_numbers(tensors[0][1]), strict=False):
        sentence = refused(kind, key, changed.flatten()[:1].expand_as(value).clone())
        assert f"'{loaders.FILE}' holds '" in sentence and f" as {name}, and needs floating-point" in sentence


def test_a_sum_that_overflows_is_no_infinity():
    large = torch.full((4096,), 60000.0, dtype=torch.float16)
    assert large.sum().isinf() and not_finite(large) == 0
    assert not_finite(torch.tensor([torch.inf, -torch.inf, torch.nan, 1.0])) == 3
    assert not_finite(torch.tensor([1.0, torch.nan]).to(torch.float8_e4m3fn)) == 1
    check_numbers({"large": large}, "file")


def test_the_number_of_a_name_does_not_make_a_larger_network():
    """One name of many, damaged: a network of a million layers would take the machine's memory."""
    key = "connector.perceiver_blocks.0.mlp.c_proj.bias"
    weights = dict(loaders.weights("ella"))
    weights["connector.perceiver_blocks.99999999.mlp.c_proj.bias"] = weights.pop(key)
    with pytest.raises(ValueError, match="is an incomplete ELLA: it lacks .*'connector.perceiver_blocks"):
        loaders.load_ella(weights)


# Parts of other networks


@pytest.mark.parametrize(
    "key, sentence",
    [
        ("time_embedding.cond_proj.weight", "holds an LCM UNet, .* LCM LoRA with Load LoRA"),
        ("down_blocks.0.motion_modules.0.temporal_transformer.norm.weight", "AnimateDiff's motion modules"),
        ("down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight", "a LoRA that is not merged"),
        ("down_blocks.0.attentions.0.transformer_blocks.0.attn2.processor.to_k_ip.weight", "IP-Adapter"),
        ("down_blocks.0.attentions.0.transformer_blocks.0.fuser.linear.weight", "a GLIGEN UNet"),
        ("down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.rotation", "1 tensors that UNet does not have"),
    ],
)
def test_a_unet_with_parts_of_another_network_is_told(key, sentence):
    with pytest.raises(ValueError, match=f"^'{loaders.FILE}' .*{sentence}") as error:
        loaders.check_unet({**loaders.weights("unet"), key: torch.zeros(4, 4)})
    assert key.rpartition(".")[0].split(".")[-1] in str(error.value)


def test_zero123_is_told():
    weights = {f"model.diffusion_model.{key}": value for key, value in thin.weights("ip2p").items()}
    with pytest.raises(ValueError, match="holds Stable Zero123, .* Image Only Checkpoint Loader"):
        loaders.check_unet({**weights, "cc_projection.weight": torch.zeros(768, 772)})


@pytest.mark.parametrize("kind", ["sd2", "unclip_l", "unclip_h", "x4", "inpaint"])
def test_a_whole_unet_of_each_kind_is_taken(kind):
    loaders.check_unet({f"model.diffusion_model.{key}": value for key, value in thin.weights(kind).items()})


def test_motion_modules_alone_are_told():
    modules = {"down_blocks.0.motion_modules.0.temporal_transformer.norm.weight": torch.ones(4)}
    with pytest.raises(ValueError, match="holds no UNet: it is AnimateDiff's motion modules"):
        loaders.check_unet(modules)


@pytest.mark.parametrize(
    "key, sentence",
    [
        ("5.conv1.ffc.convg2g.lfu.conv_layer.weight", "local Fourier units .* without them"),
        ("5.conv1.ffc.gate.weight", "1 tensors that LaMa does not have, such as 'model.5.conv1.ffc.gate.weight'"),
    ],
)
def test_a_lama_with_other_layers_is_told(key, sentence):
    with pytest.raises(ValueError, match=f"^'{loaders.FILE}' .*{sentence}"):
        loaders.load_lama({**loaders.weights("lama"), key: torch.zeros(4, 4, 1, 1)})
    loaders.load_lama({**loaders.weights("lama"), "global_step": torch.tensor(7)})  # a count beside the layers
