"""ELLA's T5 against transformers' T5EncoderModel and T5 tokenizer, from files as people have them."""

import copy
import functools
import logging

import comfy.ops
import folder_paths
import pytest
import safetensors.torch
import torch
from comfy import model_management
from transformers import AutoTokenizer, T5Config, T5EncoderModel, T5ForConditionalGeneration

from kit.assertions import relative_error
from pentimento.model_patchers.arch.t5_fp16 import T5, Norm, limited_sum
from pentimento.model_patchers.comfyui.fit import check_shapes
from pentimento.model_patchers.prompt import ella, ella_t5

pytestmark = pytest.mark.usefixtures("one_thread")
FP16, FP32, BF16 = ella_t5.PRECISIONS
THIN = {"vocab_size": 32128, "d_model": 32, "d_kv": 64, "d_ff": 64, "num_layers": 3, "num_heads": 2}
PROMPTS = [
    "",
    " ",
    "The house is wonderful.",
    "a (shiny:1.3) car, ((red)) [blue|green] \\(old\\)  embedding:easynegative <lora:x:1>",
    "unbalanced ) ( parentheses (",
    "Line one.\nLine two;\ttabbed - \"quoted\" 'single' 50% $3.50 #1 @home & more...",
    "caf\u00e9 na\u00efve \u65e5\u672c\u8a9e \U0001f600 stra\u00dfe \ufb01ne",
    " ".join(f"word{i}" for i in range(400)),
    " ".join(["tree"] * 126),
    " ".join(["tree"] * 127),
    " ".join(["tree"] * 128),
]
SPECIAL = [  # tokens that a user wrote as text
    "a red cat</s> beside a green door",
    "</s>",
    "</s></s> a cat",
    "<pad> a cat <pad>",
    "a cat <unk> <extra_id_0> and a dog <extra_id_99></s> <s> </S>",
    "a cat</s> " * 60,
]


def thin(model=T5EncoderModel, **options):
    """A small T5 of transformers with random weights, the norms' too."""
    config = T5Config(**{**THIN, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, **options})
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False):
        torch.manual_seed(0)
        network = model(config).eval()
        for parameter in network.parameters():
            parameter.requires_grad_(False)
            if parameter.dim() == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return network


def encoder_tensors(network):
    """Its tensors as in a file, where the embedding is written once."""
    return {key: value for key, value in network.state_dict().items() if key != "encoder.embed_tokens.weight"}


def save(path, weights):
    safetensors.torch.save_file({key: value.contiguous().clone() for key, value in weights.items()}, path)
    return path


@pytest.fixture(scope="module")
def gated(tmp_path_factory):
    """(transformers' network, its file)"""
    network = thin()
    return network, save(tmp_path_factory.mktemp("gated") / "gated.safetensors", encoder_tensors(network))


@pytest.fixture(scope="module")
def overflowing(tmp_path_factory):
    """The same with a residual stream that goes past what half precision holds."""
    network = thin()
    with torch.inference_mode(False):
        for block in network.encoder.block:
            block.layer[1].DenseReluDense.wi_1.weight.mul_(300)
            block.layer[1].DenseReluDense.wo.weight[:4].mul_(120)  # 65,000 to 140,000
    return network, save(tmp_path_factory.mktemp("over") / "over.safetensors", encoder_tensors(network))


@pytest.fixture(scope="module")
def clip(gated, precision):
    chosen = {torch.float32: FP32, torch.float16: FP16, torch.bfloat16: BF16}[precision.dtype]
    return ella_t5.load(gated[1], chosen)


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(ella_t5.TOKENIZER)


def encode(clip, text, length):
    return clip.encode_from_tokens(clip.tokenize(text, length=length))


def reference(network, tokenizer, text, length):
    """What transformers gives, by its own tokenizer and mask."""
    sized = {"max_length": length, "padding": "max_length", "truncation": True} if length else {}
    found = tokenizer(text, return_tensors="pt", **sized)
    return network(input_ids=found.input_ids, attention_mask=found.attention_mask).last_hidden_state.float()


# Features


@pytest.mark.both_devices
@pytest.mark.in_half
@pytest.mark.parametrize("length", [128, None])
@pytest.mark.parametrize("text", [PROMPTS[3], "", PROMPTS[7], *SPECIAL])
def test_features_are_those_of_transformers(gated, clip, tokenizer, precision, text, length):
    found, expected = encode(clip, text, length), reference(gated[0], tokenizer, text, length)
    assert found.dtype == torch.float32 and found.shape == expected.shape
    lowered = functools.partial(reference, copy.deepcopy(gated[0]).to(precision.dtype), tokenizer, text, length)
    assert relative_error(found, expected) <= precision.tolerance(1e-5, expected, lowered)  # the padding's rows too


def test_a_t5_without_gates_as_t5_large(tmp_path, tokenizer):
    network = thin(feed_forward_proj="relu", d_ff=96, num_heads=3, num_layers=2)
    found = encode(ella_t5.load(save(tmp_path / "relu.safetensors", encoder_tensors(network)), FP32), PROMPTS[3], 128)
    assert (found - reference(network, tokenizer, PROMPTS[3], 128)).abs().max() <= 1e-5


def test_a_batch_of_several_lengths(gated, clip):
    ids = [[3, 9, 1712, 1], [8, 629, 1, 0], [1, 0, 0, 0]]
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 0, 0, 0]])
    found, _ = clip.cond_stage_model.t5xl(ids)
    expected = gated[0](input_ids=torch.tensor(ids), attention_mask=mask).last_hidden_state
    assert (found - expected).abs().max() <= 1e-5


@pytest.mark.both_devices
@pytest.mark.parametrize("fast", [False, True], ids=["float32 with sums in fp16", "fp16"])
def test_fp16_overflows_as_in_transformers(overflowing, tokenizer, monkeypatch, fast):
    network, file = overflowing
    monkeypatch.setattr(model_management, "should_use_fp16", lambda *args, **kwargs: fast)
    half, full = ella_t5.load(file, FP16), ella_t5.load(file, FP32)
    assert half.patcher.object_patches["manual_cast_dtype"] == (torch.float16 if fast else torch.float32)
    trained = copy.deepcopy(network).half()
    for text, length in ((PROMPTS[2], 128), (PROMPTS[5], None), (PROMPTS[6], 128), (PROMPTS[6], None)):
        expected = reference(trained, tokenizer, text, length)
        assert expected.isfinite().all()
        assert relative_error(encode(half, text, length), expected) <= 1e-2
        assert relative_error(encode(full, text, length), expected) > 0.1  # so something did overflow
        assert relative_error(encode(full, text, length), reference(network, tokenizer, text, length)) <= 1e-5


def test_the_sums_of_fp16():
    x, y = torch.tensor([60000.0, -60000.0, 65000.0, 1.0]), torch.tensor([10000.0, -70000.0, 0.0, 2**-12])
    assert limited_sum(x, y).tolist() == [64512, -64512, 64512, 1]  # 65000 too, as something overflowed
    assert limited_sum(x[2:], y[2:]).tolist() == [64992, 1]  # what half precision has for 65000
    assert limited_sum(-x, torch.full_like(x, 1e6)).tolist() == [64512] * 4  # not 1e6 - 60000, nor an infinity


def test_the_norm_of_large_halves():
    norm = Norm(2, dtype=torch.float16)
    norm.load_state_dict({"weight": torch.ones(2)})
    assert norm(torch.tensor([40000.0, 40000.0]).half()).tolist() == [1, 1]  # whose squares overflow


def test_bf16_is_near_and_warned_of(gated, tokenizer, caplog):
    with caplog.at_level(logging.WARNING):
        found = encode(ella_t5.load(gated[1], BF16), PROMPTS[3], 128)
    assert "trained" in caplog.text
    assert relative_error(found, reference(copy.deepcopy(gated[0]).bfloat16(), tokenizer, PROMPTS[3], 128)) <= 3e-2


# Tokens


@pytest.mark.parametrize("length", [128, None])
def test_token_ids_are_those_of_transformers(clip, tokenizer, length):
    sized = {"max_length": length, "padding": "max_length", "truncation": True} if length else {}
    for text in PROMPTS + SPECIAL:
        [pairs] = clip.tokenize(text, length=length)["t5xl"]
        assert [token for token, _ in pairs] == tokenizer(text, **sized)["input_ids"]
        assert {weight for _, weight in pairs} == {1.0}


def test_token_ids_that_are_published(clip):
    """In the documentation of transformers, for T5."""
    [pairs] = clip.tokenize("The house is wonderful.")["t5xl"]
    assert [token for token, _ in pairs] == [37, 629, 19, 1627, 5, 1]
    assert clip.tokenize("") == {"t5xl": [[(1, 1.0)]]}
    [cut] = clip.tokenize(PROMPTS[7], length=128)["t5xl"]
    assert len(cut) == 128 and cut[-1] == (1, 1.0)
    [padded] = clip.tokenize("The house", length=128)["t5xl"]
    assert padded == [(37, 1.0), (629, 1.0), (1, 1.0)] + [(0, 1.0)] * 125
    assert clip.tokenize("The house", return_word_ids=True)["t5xl"] == [[(37, 1.0, 1), (629, 1.0, 2), (1, 1.0, 0)]]


# Files


def cut(weights, folder, count=2):
    """Writes the tensors as shards; returns their paths."""
    keys, paths = sorted(weights), []
    for i in range(count):
        path = folder / f"model-{i + 1:05}-of-{count:05}.safetensors"
        paths.append(save(path, {key: weights[key] for key in keys[i::count]}))
    return paths


def test_every_form_of_file_gives_the_same(gated, clip, tmp_path):
    expected, weights = encode(clip, PROMPTS[3], 128), encoder_tensors(gated[0])
    whole = thin(T5ForConditionalGeneration, num_decoder_layers=1).state_dict()
    whole = {**{key: value for key, value in whole.items() if "embed_tokens" not in key}, **weights}
    assert any(key.startswith("decoder.") for key in whole) and "lm_head.weight" in whole
    tied = {key.replace("shared.", "encoder.embed_tokens."): value for key, value in weights.items()}
    files = [
        *cut(whole, tmp_path),
        save(tmp_path / "whole.safetensors", whole),
        save(tmp_path / "tied.safetensors", tied),
        save(tmp_path / "prefixed.safetensors", {f"t5xl.transformer.{key}": v for key, v in weights.items()}),
    ]
    torch.save(weights, tmp_path / "pytorch_model.bin")
    for file in [*files, tmp_path / "pytorch_model.bin"]:
        assert torch.equal(encode(ella_t5.load(file, FP32), PROMPTS[3], 128), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_files_in_half_precision(gated, tokenizer, tmp_path, dtype):
    network = copy.deepcopy(gated[0]).to(dtype)
    clip = ella_t5.load(save(tmp_path / "half.safetensors", encoder_tensors(network)), FP32)
    assert clip.cond_stage_model.t5xl.transformer.shared.weight.dtype == dtype  # kept small, computed in float32
    expected = reference(network.float(), tokenizer, PROMPTS[3], 128)
    assert (encode(clip, PROMPTS[3], 128) - expected).abs().max() <= 1e-5


@pytest.mark.parametrize(
    "sizes",
    [
        {"d_model": 2048, "d_ff": 5120, "num_layers": 24, "num_heads": 32},
        {"d_model": 1024, "d_ff": 4096, "num_layers": 24, "num_heads": 16, "feed_forward_proj": "relu"},
    ],
    ids=["flan-t5-xl", "t5-large"],
)
def test_sizes_are_told_from_the_tensors(sizes):
    with torch.device("meta"):
        network = T5EncoderModel(T5Config(**{**THIN, "feed_forward_proj": "gated-gelu", **sizes}))
    weights = ella_t5.encoder_weights(network.state_dict(), "file")
    config = ella_t5.config_of(weights)
    assert {key: config[key] for key in THIN} == {**THIN, **{k: v for k, v in sizes.items() if k in THIN}}
    network = T5(config, None, "meta", comfy.ops.manual_cast, torch.float32).state_dict()
    assert weights.keys() == network.keys()
    check_shapes(weights, network, "file", "T5")
    if sizes["d_model"] == 2048:
        assert len(weights) == 219 and sum(value.numel() for value in weights.values()) == 1_223_527_424


WRONG = {
    "UMT5": (
        lambda w: w | {k.replace("block.0", "block.1"): v for k, v in w.items() if "relative" in k},
        "in every block.*AuraFlow",
    ),
    "mT5": (lambda w: w | {"shared.weight": torch.zeros(250112, 2)}, "T5 of 250112 tokens"),
    "CLIP": (lambda w: {"text_model.encoder.layers.0.mlp.fc1.weight": torch.zeros(2, 2)}, "a CLIP text encoder"),
    "checkpoint": (
        lambda w: (
            {"cond_stage_model.transformer.text_model.encoder.layers.0.w": torch.zeros(1)}
            | {"model.diffusion_model.out.2.bias": torch.zeros(4)}
        ),
        "a checkpoint of a diffusion model",
    ),
    "LLM": (lambda w: {"model.layers.0.mlp.up_proj.weight": torch.zeros(2, 2)}, "a language model"),
    "unknown": (lambda w: {"a.weight": torch.zeros(2, 2)}, "1 tensors such as 'a.weight'"),
    "cut": (
        lambda w: {k: v for k, v in w.items() if ".wi_1." not in k},
        "lacks 3 tensors such as 'encoder.block.0.*of-00002",
    ),
    "without embedding": (lambda w: {k: v for k, v in w.items() if "shared" not in k}, "lacks 1 tensors"),
    "quantized": (lambda w: w | {"encoder.block.0.layer.0.SelfAttention.q.scale": torch.ones(1)}, "be quantized"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_other_files_are_refused_by_name(gated, tmp_path, kind):
    change, message = WRONG[kind]
    file = save(tmp_path / f"{kind}.safetensors", change(encoder_tensors(gated[0])))
    with pytest.raises(ValueError, match=f"^'{kind}.safetensors' (holds|is) .*{message}.*"):
        ella_t5.load(file, FP16)


def test_a_missing_shard_is_named(gated, tmp_path):
    first, second, _ = cut(encoder_tensors(gated[0]), tmp_path, count=3)
    second.unlink()
    with pytest.raises(ValueError, match=r"one of 3 files .* no 'model-00002-of-00003.safetensors'\. Put all"):
        ella_t5.load(first, FP16)


# Under ComfyUI's management


def test_repeats_are_equal_to_the_bit_after_unloading_too(overflowing):
    clip = ella_t5.load(overflowing[1], FP16)
    state = torch.get_rng_state()
    first = encode(clip, PROMPTS[3], 128)
    assert clip.patcher in [loaded.model for loaded in model_management.current_loaded_models]
    assert torch.equal(encode(clip, PROMPTS[3], 128), first)
    model_management.unload_all_models()
    assert torch.equal(encode(clip.clone(), PROMPTS[3], 128), first)
    assert torch.equal(torch.get_rng_state(), state)


def test_an_interrupt_stops_it(clip):
    model_management.interrupt_current_processing()
    with pytest.raises(model_management.InterruptProcessingException):
        encode(clip, "a cat", 128)
    assert encode(clip, "a cat", 128).isfinite().all()


def test_skipping_layers_as_with_any_clip(gated, clip, tokenizer):
    """Clip Set Last Layer: the states before the last block, normed."""
    skipping = clip.clone()
    skipping.clip_layer(-2)
    ids = tokenizer("a cat", return_tensors="pt").input_ids
    states = gated[0](input_ids=ids, output_hidden_states=True).hidden_states
    expected = gated[0].encoder.final_layer_norm(states[-2])
    assert (encode(skipping, "a cat", None) - expected).abs().max() <= 1e-5


def test_the_nodes(gated, node_classes, monkeypatch):
    monkeypatch.setitem(
        folder_paths.folder_names_and_paths, "text_encoders", ([str(gated[1].parent)], {".safetensors"})
    )
    [clip] = node_classes["PentimentoLoadELLAT5"].execute("gated.safetensors", FP16).args
    features = ella.features(clip, "a cat", "128 tokens", 32)
    assert features.shape == (1, 128, 32)
    assert torch.equal(features, encode(clip, "a cat", 128))
    assert ella.features(clip, "a cat", "flexible", 32).shape == (1, len(clip.tokenize("a cat")["t5xl"][0]), 32)
    with pytest.raises(ValueError, match="32 wide.*2048 wide"):
        ella.features(clip, "a cat", "128 tokens", 2048)
