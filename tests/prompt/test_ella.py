"""ELLA's connector against tensors made by the paper's own code; its timesteps against those that the denoiser gets."""

import json
from functools import partial
from types import SimpleNamespace
from zlib import crc32

import comfy.controlnet
import comfy.ops
import comfy.sample
import comfy.samplers
import comfy.sd
import comfy.supported_models
import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from comfy import model_management, sd1_clip
from comfy.patcher_extension import WrappersMP
from comfy_extras import nodes_model_advanced as sampling_nodes
from comfy_extras.nodes_cond import CLIPTextEncodeControlnet
from comfy_extras.nodes_context_windows import ContextWindowsManualNode

import nodes
from kit import thin as thin_models
from kit.assertions import frozen, relative_error
from kit.golden import GOLDEN, maker
from kit.tensors import randn
from pentimento.model_patchers.arch import ella as arch
from pentimento.model_patchers.arch.ella import Config, Connector
from pentimento.model_patchers.prompt import ella
from pentimento.model_patchers.upscale import windows

pytestmark = pytest.mark.usefixtures("one_thread")
make_ella = maker("ella")

TEXT_WIDTH = 24  # of the small ELLA's T5
FIXED, FLEXIBLE = ella.LENGTHS


def small_weights():
    """A connector for the thin SD 1.5: real where they meet, 64 tokens 768 wide, and small behind."""
    width, hidden, time, channels = 768, 32, 16, 20
    block = {
        "attn.in_proj_weight": [3 * width, width],
        "attn.in_proj_bias": [3 * width],
        "attn.out_proj.weight": [width, width],
        "attn.out_proj.bias": [width],
        "mlp.c_fc.weight": [hidden, width],
        "mlp.c_fc.bias": [hidden],
        "mlp.c_proj.weight": [width, hidden],
        "mlp.c_proj.bias": [width],
    }
    for norm in ("ln_1", "ln_2", "ln_ff"):
        block |= {f"{norm}.linear.weight": [2 * width, time], f"{norm}.linear.bias": [2 * width]}
    shapes = {
        "time_embedding.linear_1.weight": [time, channels],
        "time_embedding.linear_1.bias": [time],
        "time_embedding.linear_2.weight": [time, time],
        "time_embedding.linear_2.bias": [time],
        "connector.latents": [64, width],
        "connector.time_aware_linear.weight": [width, time],
        "connector.time_aware_linear.bias": [width],
        "connector.proj_in.weight": [width, TEXT_WIDTH],
        "connector.proj_in.bias": [width],
    }
    return make_ella.weights(shapes | {f"connector.perceiver_blocks.0.{key}": shape for key, shape in block.items()})


@pytest.fixture(scope="module")
def small():
    return ella.ELLA(small_weights(), "small")


class Telling(ella.ELLA):
    """Gives tokens that say the timestep (channel 0) and the text (channel 1), and counts."""

    def __init__(self):
        super().__init__(small_weights(), "telling")
        self.calls = []

    def __call__(self, features, t):
        self.calls.append((tuple(features.shape), t.tolist()))
        tokens = torch.zeros(len(features), 64, 768)
        tokens[..., 0], tokens[..., 1] = t[:, None], features[:, :1, 0]
        return tokens


class T5:
    """Features of a text from its letters, as many rows as it has words and an end."""

    def __init__(self, width=TEXT_WIDTH, for_ella=True):
        self.width, self.tokenizer, self.cond_stage_model = width, SimpleNamespace(for_ella=for_ella), self

    def tokenize(self, text, length=None):
        return text, length or len(text.split()) + 1

    def encode_from_tokens(self, tokens):
        text, length = tokens
        found = randn(1, length, self.width, seed=crc32(text.encode()))
        found[:, 0, 0] = voice(text)
        return found


def voice(text):
    """What Telling's tokens say of a text."""
    return float(crc32(text.encode()) % 1000)


class Recorder(torch.nn.Module):
    """In place of a UNet: notes what it is given, for every row of the batch."""

    dtype = torch.float32

    def __init__(self, interrupt_at=None):
        super().__init__()
        self.interrupt_at, self.calls = interrupt_at, []

    def forward(self, x, t, context=None, control=None, transformer_options=None, **kwargs):
        if len(self.calls) == self.interrupt_at:
            raise model_management.InterruptProcessingException
        part = transformer_options["cond_or_uncond"]
        sigma = transformer_options["sigmas"][0].item()
        self.calls.append(SimpleNamespace(t=t.clone(), context=context.clone(), part=part, sigma=sigma, x=x.clone()))
        return x[:, :4] * 0.1 + context.mean() * 1e-6

    def rows(self, part):
        """(timestep, tokens) of every evaluation of the positive (0) or the negative (1)."""
        rows = []
        for call in self.calls:
            size = len(call.t) // len(call.part)
            for i, side in enumerate(call.part):
                if side == part:
                    rows.append((call.t[i * size].item(), call.context[i * size]))
        assert rows, "never evaluated"
        return rows


@pytest.fixture(scope="module")
def thin(precision):
    return thin_models.host_model("sd15")


@pytest.fixture(scope="module")
def unet():
    """The same by diffusers."""
    return thin_models.diffusers_unet("sd15")


@pytest.fixture
def base(thin):
    """A thin SD 1.5 whose UNet is in place again after the test."""
    yield thin
    model_management.unload_all_models()


def recorded(base, teller, **options):
    """A model with ELLA and a recorder in place of its UNet."""
    model, recorder = ella.apply(base, teller), Recorder(**options)
    model.add_object_patch("diffusion_model", recorder)
    return model, recorder


def sample(
    model, positive, negative, sampler="euler", scheduler="karras", steps=4, cfg=3.0, denoise=1.0, size=4, batch=1
):
    noise = randn(batch, 4, size, size, seed=0)
    latent = torch.zeros_like(noise)
    options = {"denoise": denoise, "disable_pbar": True, "seed": 0}
    return comfy.sample.sample(model, noise, steps, cfg, sampler, scheduler, positive, negative, latent, **options)


def encode(model, text, length=FLEXIBLE, clip=None, clip_text="", t5=None):
    return ella.encode(model, t5 or T5(), text, length, clip, clip_text)


def plain(text, tokens=77):
    """What a text encoder gives."""
    generator = torch.Generator().manual_seed(crc32(text.encode()))
    return [[torch.randn(1, tokens, 768, generator=generator), {"pooled_output": None}]]


# The connector


@pytest.fixture(scope="module", params=list(make_ella.SIZES))
def golden(request):
    """The connector at a size, and what the paper's code says: [(features, timesteps, cells kept, tokens)]."""
    arguments, steps = make_ella.SIZES[request.param]
    tensors = np.load(GOLDEN / "ella.npz")
    weights = make_ella.weights(json.loads(str(tensors[f"{request.param} shapes"])))
    kept = tuple(slice(None, None, step) for step in steps)
    text_width = weights["connector.proj_in.weight"].shape[1]
    cases = [
        (make_ella.text(b, n, text_width), torch.tensor(t), kept, torch.from_numpy(tensors[f"{request.param} {name}"]))
        for name, (b, n, t) in make_ella.cases(request.param).items()
    ]
    return SimpleNamespace(connector=ella.ELLA(weights, "golden", arguments.get("heads", 8)), cases=cases)


def worst(golden):
    golden.connector.load()
    return max((golden.connector(x, t).cpu()[kept] - y).abs().max() for x, t, kept, y in golden.cases)


@pytest.mark.both_devices
@pytest.mark.in_half
def test_connector_equals_the_papers(golden):
    """In float32 where a device is good at half precision, too."""
    assert worst(golden) <= 1e-5


def swapped(self, x, time):
    scale, shift = self.linear(time).chunk(2, dim=-1)
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift


def text_alone(self, latents, text, time):
    x = self.ln_1(latents, time)
    latents = latents + self.attn(x, self.ln_2(text, time))
    return latents + self.mlp(self.ln_ff(latents, time))


MISTAKES = {
    "scale before shift": lambda patch: patch.setattr(arch.AdaLayerNorm, "forward", swapped),
    "sine before cosine": lambda patch, true=arch.timestep_embedding: patch.setattr(
        arch, "timestep_embedding", lambda t, n: true(t, n).roll(n // 2, dims=-1)
    ),
    "eps 1e-5": lambda patch: patch.setattr(arch, "EPS", 1e-5),
    "latents that do not see each other": lambda patch: patch.setattr(arch.Block, "forward", text_alone),
    "relu without square": lambda patch: patch.setattr(torch.Tensor, "square", lambda x: x),
}


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("golden", ["tiny"], indirect=True)
def test_common_mistakes_are_caught(golden, mistake, monkeypatch):
    MISTAKES[mistake](monkeypatch)
    assert worst(golden) > 1e-5


def test_the_published_file():
    """Its 93 tensors, by the paper's code: 66.82 million numbers, as in the paper's table 6."""
    shapes = json.loads(str(np.load(GOLDEN / "ella.npz")["full shapes"]))
    weights = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    config = Config.of(weights)
    network = Connector(config, comfy.ops.manual_cast, torch.device("meta"))
    assert len(weights) == 93
    assert config == Config(768, 2048, 64, 6, 8, 3072, 320, 768)
    found = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert found == {name: tuple(value.shape) for name, value in arch.split_projections(weights).items()}
    assert sum(value.numel() for value in network.state_dict().values()) == 66_820_608


# Loading


def offload(patcher, room):
    """As under --lowvram: ComfyUI keeps what exceeds `room` bytes off the device."""
    patcher.detach()
    patcher.patch_model(patcher.load_device, lowvram_model_memory=room)


@pytest.mark.parametrize("share", [1e-6, 0.4])
def test_partial_loading_changes_nothing(share):
    model = ella.ELLA(small_weights(), "small")
    x, t = make_ella.text(2, 5, TEXT_WIDTH), torch.tensor([12.0, 999.0])
    model.load()
    whole = model(x, t)
    offload(model.patcher, model.patcher.model_size() * share)
    modules = [module for module in model.network.modules() if hasattr(module, "prev_comfy_cast_weights")]
    assert len(modules) >= 4, "nothing was left off the device"
    assert torch.equal(model(x, t), whole)


def test_every_tensor_follows_the_text(small):
    """The weights stay on the CPU and the text is elsewhere, as in the worst of partial loading: each is fetched."""
    offload(small.patcher, 1)
    elsewhere = torch.device("meta")
    tokens = small.network(torch.empty(1, 5, TEXT_WIDTH, device=elsewhere), torch.empty(1, device=elsewhere))
    assert tokens.device == elsewhere
    assert tokens.shape == (1, 64, 768)


@pytest.mark.both_devices
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_computed_in_float32(dtype):
    half = {key: value.to(dtype) for key, value in small_weights().items()}
    x, t = make_ella.text(1, 5, TEXT_WIDTH), torch.tensor([499])
    expected = ella.ELLA({key: value.float() for key, value in half.items()}, "rounded")(x, t)
    assert torch.equal(ella.ELLA(half, "half")(x, t), expected)


@pytest.mark.parametrize("prefix", ["", "model.", "state_dict.ella."])
def test_load_takes_any_prefix(tmp_path, prefix, small):
    path = tmp_path / "any name.safetensors"
    safetensors.torch.save_file({prefix + key: value for key, value in small_weights().items()}, path)
    x, t = make_ella.text(1, 5, TEXT_WIDTH), torch.tensor([499])
    assert torch.equal(ella.load(path)(x, t), small(x, t))


def without(name):
    return {key: value for key, value in small_weights().items() if key != name}


@pytest.mark.parametrize(
    "weights, sentence",
    [
        ({"encoder.final_layer_norm.weight": torch.ones(4)}, "1 tensors such as 'encoder.final_layer_norm.weight'"),
        (without("connector.proj_in.weight"), "of no network that is known here. Load ELLA needs"),
        (without("connector.time_aware_linear.bias"), "incomplete ELLA: it lacks 1 tensors such as 'connector.time"),
        (small_weights() | {"connector.proj_out.0.weight": torch.ones(1)}, "1 tensors that ELLA does not have"),
    ],
)
def test_other_files_are_told(tmp_path, weights, sentence):
    path = tmp_path / "file.safetensors"
    safetensors.torch.save_file(weights, path)
    with pytest.raises(ValueError, match=sentence):
        ella.load(path)


def test_load_node(tmp_path, monkeypatch, node_classes, small):
    import folder_paths

    safetensors.torch.save_file(small_weights(), tmp_path / "my ella.safetensors")
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "ella", ([str(tmp_path)], {".safetensors"}))
    folder_paths.filename_list_cache.pop("ella", None)
    node = node_classes["PentimentoLoadELLA"]
    assert node.define_schema().inputs[0].options == ["my ella.safetensors"]
    x, t = make_ella.text(1, 5, TEXT_WIDTH), torch.tensor([499])
    assert torch.equal(node.execute("my ella.safetensors").result[0](x, t), small(x, t))


# Timesteps


SAMPLERS = ["euler", "heun", "dpm_2", "dpmpp_2m", "ddim"]


@pytest.mark.parametrize("scheduler", comfy.samplers.SCHEDULER_NAMES)
def test_the_connector_is_told_the_denoisers_timestep(base, scheduler):
    """At every evaluation of every sampler, and once for a text and a timestep."""
    for sampler in SAMPLERS:
        for denoise in (1.0, 0.5):
            teller = Telling()
            model, recorder = recorded(base, teller)
            positive, negative = encode(teller, "a red cube"), encode(teller, "")
            teller.calls.clear()

            sample(model, positive, negative, sampler, scheduler, steps=6, denoise=denoise)

            sigmas = torch.tensor([call.sigma for call in recorder.calls])
            expected = base.get_model_object("model_sampling").timestep(sigmas).tolist()
            for part, text in enumerate(("a red cube", "")):
                rows = recorder.rows(part)
                assert [t for t, _ in rows] == expected
                assert [context[:, 0].unique().tolist() for _, context in rows] == [[t] for t in expected]
                assert all((context[:, 1] == voice(text)).all() for _, context in rows)
            asked = sorted(t for _, timesteps in teller.calls for t in timesteps)
            assert asked == sorted(2 * list(set(expected)))
            assert len(expected) >= 5


def discretised(sigma):
    """SD 1.5's timestep of a sigma, from its definition."""
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    alphas = np.cumprod(1 - betas)
    return int(np.abs(np.log(sigma) - 0.5 * np.log((1 - alphas) / alphas)).argmin())


def karras(steps, denoise):
    """The schedule that KSampler makes: the end of a longer one where it starts from a picture."""
    sampling = comfy.model_sampling.ModelSamplingDiscrete()
    return comfy.samplers.calculate_sigmas(sampling, "karras", int(steps / denoise))[-steps - 1 :].tolist()


def by_hand(unet, connector, texts, cfg, sigmas, timestep=discretised):
    """Euler's method with diffusers' UNet, from noise on black; `timestep` is what the connector is told."""
    noise = randn(1, 4, 4, 4, seed=0)
    whole = sigmas[0] > 14
    x = noise * ((1 + sigmas[0] ** 2) ** 0.5 if whole else sigmas[0])
    for sigma, after in zip(sigmas[:-1], sigmas[1:], strict=True):
        t, told = discretised(sigma), torch.tensor([float(timestep(sigma))])
        tokens = (connector(text, told).cpu() for text in texts)
        positive, negative = (unet(x / (1 + sigma**2) ** 0.5, t, each).sample for each in tokens)
        x = x + (after - sigma) * (negative + cfg * (positive - negative))
    return x / 0.18215


def by_percent(sigmas):
    """What ComfyUI-ELLA tells: the schedule's i-th timestep in the i-th of equal parts of 0 to 999."""

    def timestep(sigma):
        steps = len(sigmas) - 1
        return discretised(sigmas[min(int((1 - discretised(sigma) / 999) * steps), steps - 1)])

    return timestep


@pytest.mark.both_devices
@pytest.mark.in_half
@pytest.mark.parametrize("denoise", [0.5, 1.0])
def test_a_run_equals_the_loop_by_hand(base, unet, precision, denoise):
    loud = {key: value * (6 if key.endswith("proj.weight") else 1) for key, value in small_weights().items()}
    connector = ella.ELLA(loud, "loud")
    texts = [encode(connector, "a red cube on a blue sphere"), encode(connector, "")]
    run = sample(ella.apply(base, connector), *texts, cfg=12.0, denoise=denoise)

    features = [conditioning[0][1]["model_conds"][ella.KEY].features for conditioning in texts]
    connector.load()
    loop = partial(by_hand, connector=connector, texts=features, cfg=12.0, sigmas=karras(4, denoise))
    expected = loop(unet)
    near, far = (
        precision.tolerance(float32, expected, lambda: loop(precision.lowered(unet))) for float32 in (1e-4, 1e-2)
    )
    assert relative_error(run, expected) < near
    wrong = [lambda sigma: 999] + ([by_percent(karras(4, denoise))] if denoise < 1 else [])
    for timestep in wrong:
        assert relative_error(loop(unet, timestep=timestep), expected) > far


def test_lcm_timesteps_are_the_denoisers(base):
    """A distilled model knows 50 timesteps, and the UNet is told them in thousandths as ever."""
    (lcm,) = sampling_nodes.ModelSamplingDiscrete().patch(base, "lcm", False)
    teller = Telling()
    model, recorder = recorded(lcm, teller)
    sample(model, encode(teller, "a"), encode(teller, ""), "lcm", "sgm_uniform", cfg=1.5)
    rows = [(t, tokens[:, 0].unique().tolist()) for part in (0, 1) for t, tokens in recorder.rows(part)]
    assert len(rows) == 8
    assert all(tokens == [t] and t % 20 == 19 for t, tokens in rows)


def test_each_sample_has_its_own_timestep(base):
    """Where a sampler gives the samples of a batch different sigmas."""
    teller = Telling()
    model, recorder = recorded(base, teller)
    sampling = base.get_model_object("model_sampling")
    sigmas = sampling.sigma(torch.tensor([900.0, 900.0, 3.0]))

    class Apart(comfy.samplers.KSAMPLER):
        def sample(self, model_wrap, given, extra_args, *_, **__):
            model_wrap(torch.zeros(3, 4, 8, 8), sigmas, **extra_args)
            return torch.zeros(3, 4, 8, 8)

    texts = encode(teller, "a"), encode(teller, "", clip=Clip())
    teller.calls.clear()
    noise = torch.zeros(3, 4, 8, 8)
    comfy.sample.sample_custom(model, noise, 2.0, Apart(None), sigmas[:1], *texts, noise, disable_pbar=True)
    for call in recorder.calls:
        assert call.context[:, 0, 0].tolist() == call.t.tolist() == [900, 900, 3]
    (_, asked), (_, also) = teller.calls
    assert asked == also == [3, 900] or asked == also == [900, 3]


# Texts


class Clip:
    """A text encoder of SD 1.5: 77 tokens for each 75 of the text."""

    def __init__(self, width=768):
        self.width, self.cond_stage_model = width, self

    def tokenize(self, text):
        return text

    def encode_from_tokens_scheduled(self, text):
        generator = torch.Generator().manual_seed(crc32(text.encode()))
        chunks = 1 + len(text.split()) // 76
        return [[torch.randn(1, 77 * chunks, self.width, generator=generator), {"pooled_output": torch.ones(1, 768)}]]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """ComfyUI's text encoder of SD 1.5 with its tokenizer, one layer deep, with random weights and an embedding."""
    folder = tmp_path_factory.mktemp("embeddings")
    generator = torch.Generator().manual_seed(0)
    embedding = torch.randn(2, 768, generator=generator)
    safetensors.torch.save_file({"emb_params": embedding}, folder / "badge.safetensors")
    target = SimpleNamespace(params={}, clip=sd1_clip.SD1ClipModel, tokenizer=sd1_clip.SD1Tokenizer)
    config = {"num_hidden_layers": 1, "intermediate_size": 64}
    options = {"clip_l_model_config": config, "dtype": torch.float32}
    found = comfy.sd.CLIP(target, embedding_directory=str(folder), model_options=options)
    for name, parameter in found.cond_stage_model.named_parameters():
        if parameter.ndim:
            rows = torch.randn(min(len(parameter), 97), *parameter.shape[1:], generator=generator)
            rows = rows.repeat(-(-len(parameter) // len(rows)), *[1] * (parameter.ndim - 1))[: len(parameter)]
            parameter.data = 0.05 * rows + ("norm" in name and name.endswith("weight"))
    return found


def test_text_alone(small):
    ((tokens, rest),) = encode(small, "a (red:1.4) cube")
    (features, t) = T5().encode_from_tokens(T5().tokenize("a (red:1.4) cube")), torch.tensor([999])
    assert torch.equal(tokens, small(features, t))
    assert tokens.shape == (1, 64, 768)
    assert torch.equal(rest["model_conds"][ella.KEY].features, features)


@pytest.mark.parametrize("length, rows", [(FIXED, 128), (FLEXIBLE, 4)])
def test_length(length, rows):
    teller = Telling()
    encode(teller, "a red cube", length)
    assert teller.calls == [((1, rows, TEXT_WIDTH), [999])]


@pytest.mark.parametrize(
    "clip_text, read",
    [
        ("", "a red cube"),
        ("(red:1.4) cube", "(red:1.4) cube"),
        ("embedding:badge, (cube:0.8)", "embedding:badge, (cube:0.8)"),
        ("cube " * 80, "cube " * 80),
    ],
)
def test_clip_reads_as_cores_node_does(small, clip, clip_text, read):
    """Its tokens follow ELLA's, weighted and with embeddings as ComfyUI has it; T5 is given the text as it is."""
    ((tokens, rest),) = encode(small, "a red cube", clip=clip, clip_text=clip_text)
    ((expected, of_core),) = nodes.CLIPTextEncode().encode(clip, read)[0]
    assert torch.equal(tokens[:, 64:], expected)
    assert torch.equal(rest["pooled_output"], of_core["pooled_output"])
    assert torch.equal(tokens[:, :64], encode(small, "a red cube")[0][0])
    unweighted = nodes.CLIPTextEncode().encode(clip, "red cube")[0][0][0]
    assert not torch.equal(expected, unweighted)


def test_clip_hooks_are_kept(small):
    """A text encoder with a schedule gives several conditionings, each for a part of the run."""
    scheduled = Clip()
    one = scheduled.encode_from_tokens_scheduled("a")[0][0]
    parts = [[one, {"clip_start_percent": 0.0}], [one + 1, {"clip_start_percent": 0.5, "hooks": "kept"}]]
    scheduled.encode_from_tokens_scheduled = lambda tokens: parts
    found = encode(small, "a", clip=scheduled)
    assert [rest["clip_start_percent"] for _, rest in found] == [0.0, 0.5]
    assert torch.equal(found[1][0][:, 64:], one + 1)
    assert found[1][1]["hooks"] == "kept"
    assert found[0][1]["model_conds"] == found[1][1]["model_conds"]
    assert "model_conds" not in parts[0][1], "an input was written to"


def test_positive_and_negative_run_in_one_call(base):
    teller = Telling()
    for clip in (None, Clip()):
        model, recorder = recorded(base, teller)
        sample(model, encode(teller, "a red cube", clip=clip), encode(teller, "", clip=clip))
        assert [sorted(call.part) for call in recorder.calls] == [[0, 1]] * 4
        assert {call.context.shape for call in recorder.calls} == {(2, 141 if clip else 64, 768)}


def test_the_shorter_text_gets_empty_chunks_of_clip(base):
    """77 and 154 tokens of CLIP: both prompts have as many in the end, and run in one call."""
    teller = Telling()
    model, recorder = recorded(base, teller)
    positive, negative = encode(teller, "word " * 80, clip=Clip()), encode(teller, "", clip=Clip())
    blank = Clip().encode_from_tokens_scheduled(Clip().tokenize(""))[0][0][0]
    sample(model, positive, negative)
    assert [sorted(call.part) for call in recorder.calls] == [[0, 1]] * 4
    for part, expected in enumerate((positive[0][0][0, 64:], torch.cat((negative[0][0][0, 64:], blank)))):
        for _, tokens in recorder.rows(part):
            assert torch.equal(tokens[64:], expected)
    assert negative[0][0].shape[1] == 141, "an input was written to"


@pytest.mark.both_devices
def test_with_clip_and_without_run_apart(base):
    """64 tokens and 141 cannot be made equal without a change of the result."""
    teller = Telling()
    model, recorder = recorded(base, teller)
    sample(model, encode(teller, "a", clip=Clip()), encode(teller, ""))
    assert sorted(call.context.shape for call in recorder.calls) == [(1, 64, 768)] * 4 + [(1, 141, 768)] * 4


@pytest.mark.parametrize(
    "t5, sentence",
    [
        (None, "t5 is empty"),
        (T5(for_ella=False), r"t5 is a text encoder of another kind \(T5\).*Connect that node"),
        (Clip(), r"t5 is a text encoder of another kind \(Clip\)"),
        (T5(width=1024), "t5 gives features 1024 wide, and this ELLA takes features 24 wide"),
    ],
)
def test_other_encoders_are_told(small, t5, sentence):
    with pytest.raises(ValueError, match=sentence):
        ella.encode(small, t5, "a", FIXED, None, "")


def test_the_hosts_clip_in_the_t5_socket_is_told(small, clip):
    with pytest.raises(ValueError, match=r"t5 is a text encoder of another kind \(SD1ClipModel\)"):
        ella.encode(small, clip, "a", FIXED, None, "")


def test_a_clip_of_another_model_is_told(small):
    with pytest.raises(ValueError, match="clip gives tokens 2048 wide, and ELLA's are 768 wide"):
        encode(small, "a", clip=Clip(2048))


# Composition


def heard(recorder, part):
    """The timesteps of a part's evaluations, each with the text that its tokens are of; they say the same timestep."""
    rows = [(t, tokens[:64]) for t, tokens in recorder.rows(part)]
    assert all((tokens[:, 0] == t).all() for t, tokens in rows)
    return [(t, tokens[0, 1].item()) for t, tokens in rows]


def test_area_mask_and_combine(base):
    """The opposite of an area, which ComfyUI makes of the positive, has the negative's text."""
    teller = Telling()
    model, recorder = recorded(base, teller)
    everywhere, somewhere, masked, negative = (encode(teller, text) for text in ("sky", "tree", "sun", "rain"))
    (somewhere,) = nodes.ConditioningSetArea().append(somewhere, 32, 32, 0, 16, 1.0)
    (masked,) = nodes.ConditioningSetMask().append(masked, torch.ones(1, 8, 8), "default", 1.0)
    (positive,) = nodes.ConditioningCombine().combine(everywhere, somewhere)
    (positive,) = nodes.ConditioningCombine().combine(positive, masked)
    teller.calls.clear()

    sample(model, positive, negative, size=8)

    assert {said for _, said in heard(recorder, 0)} == {voice("sky"), voice("tree"), voice("sun")}
    assert {said for _, said in heard(recorder, 1)} == {voice("rain")}
    assert {tuple(call.x.shape[2:]) for call in recorder.calls} == {(8, 8), (4, 4)}
    assert [shape for shape, _ in teller.calls] == [(4, 2, TEXT_WIDTH)] * 4, "texts of one length are one call"


def test_a_text_encoded_twice_costs_once(base):
    teller = Telling()
    model, _ = recorded(base, teller)
    positive, again = encode(teller, "a red cube"), encode(teller, "a red cube")
    teller.calls.clear()
    sample(model, positive + again, again)
    assert [shape for shape, _ in teller.calls] == [(1, 4, TEXT_WIDTH)] * 4


def test_timestep_ranges(base):
    """A text costs nothing where it is not used."""
    teller = Telling()
    model, recorder = recorded(base, teller)
    (early,) = nodes.ConditioningSetTimestepRange().set_range(encode(teller, "early"), 0.0, 0.5)
    (late,) = nodes.ConditioningSetTimestepRange().set_range(encode(teller, "late"), 0.5, 1.0)
    negative = encode(teller, "negative")
    teller.calls.clear()

    sample(model, early + late, negative, scheduler="normal", steps=8)

    assert {said for t, said in heard(recorder, 0) if t > 500} == {voice("early")}
    assert {said for t, said in heard(recorder, 0) if t < 499} == {voice("late")}
    assert [shape[0] for shape, _ in teller.calls] == [2] * 8


class Control(comfy.controlnet.ControlBase):
    """Notes the tokens that a ControlNet would be given."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def get_control(self, x, t, cond, batched_number, transformer_options):
        tokens = cond.get("crossattn_controlnet", cond["c_crossattn"])
        self.calls.append((transformer_options["sigmas"][0], tokens.clone()))


def test_controlnet_sees_the_timesteps_tokens(base):
    teller, control = Telling(), Control()
    model, _ = recorded(base, teller)
    options = {"control": control, "control_apply_to_uncond": True}
    positive = [[tokens, {**rest, **options}] for tokens, rest in encode(teller, "a red cube")]
    sample(model, positive, encode(teller, ""))
    sampling = base.get_model_object("model_sampling")
    assert len(control.calls) == 4
    for sigma, tokens in control.calls:
        assert (tokens[:, :, 0] == sampling.timestep(sigma)).all()
        assert sorted(tokens[:, 0, 1].tolist()) == sorted([voice("a red cube"), voice("")])


def test_controlnet_may_have_tokens_of_its_own(base, clip):
    """Core's CLIP Text Encode (Controlnet) goes on top of an ELLA conditioning."""
    teller, control = Telling(), Control()
    model, recorder = recorded(base, teller)
    (positive,) = CLIPTextEncodeControlnet.execute(clip, encode(teller, "a red cube"), "for the net").result
    positive[0][1]["control"] = control
    sample(model, positive, encode(teller, ""))
    expected = clip.encode_from_tokens(clip.tokenize("for the net"))
    assert len(control.calls) == 4
    assert all(torch.equal(tokens, expected) for _, tokens in control.calls)
    assert {said for _, said in heard(recorder, 0)} == {voice("a red cube")}


def test_concat(base):
    """What is appended stays; an ELLA text that is appended to another is the one at the first timestep."""
    teller = Telling()
    model, recorder = recorded(base, teller)
    (positive,) = nodes.ConditioningConcat().concat(encode(teller, "first"), plain("appended"))
    (negative,) = nodes.ConditioningConcat().concat(plain("first"), encode(teller, "appended"))
    sample(model, positive, negative)
    assert {said for _, said in heard(recorder, 0)} == {voice("first")}
    assert all(torch.equal(tokens[64:], plain("appended")[0][0][0]) for _, tokens in recorder.rows(0))
    assert all((tokens[77:, 0] == 999).all() for _, tokens in recorder.rows(1))


@pytest.mark.both_devices
def test_a_factor_of_tokens_on_the_device():
    tokens = randn(1, 4, 8).to(model_management.get_torch_device())
    assert ella.factor(0.25 * tokens, tokens.cpu()) == pytest.approx(0.25)


@pytest.mark.both_devices
@pytest.mark.parametrize("node, k", [("ConditioningMultiply", 0.25), ("ConditioningZeroOut", 0.0)])
def test_factors_hold_at_every_timestep(base, node, k):
    teller = Telling()
    model, recorder = recorded(base, teller)
    if k:
        (positive,) = nodes.ConditioningMultiply().multiply(encode(teller, "red", clip=Clip()), k)
    else:
        (positive,) = nodes.ConditioningZeroOut().zero_out(encode(teller, "red", clip=Clip()))
    sample(model, positive, encode(teller, ""))
    for t, tokens in recorder.rows(0):
        assert torch.allclose(tokens[:64, 0], torch.tensor(k * t), rtol=1e-6)
        assert torch.equal(tokens[64:].cpu(), positive[0][0][0, 64:])


@pytest.mark.parametrize("strength", [1.0, 0.6])
def test_average(base, small, strength, caplog):
    """ComfyUI averages what it can see, the tokens at the first timestep: they stay, and it is said once."""
    model, recorder = recorded(base, small)
    red, blue = encode(small, "red"), encode(small, "blue")
    (positive,) = nodes.ConditioningAverage().addWeighted(red, blue, strength)
    sample(model, positive, encode(small, ""))
    rows = recorder.rows(0)
    if strength == 1:
        features = red[0][1]["model_conds"][ella.KEY].features
        for t, tokens in rows:
            assert torch.allclose(tokens, small(features, torch.tensor([t]))[0], atol=1e-5)
    else:
        average = strength * red[0][0][0] + (1 - strength) * blue[0][0][0]
        assert all(torch.allclose(tokens, average, atol=1e-6) for _, tokens in rows)
    assert caplog.text.count("mixed with another") == (strength != 1)


def test_lora(base, small):
    """The order of ELLA and a LoRA does not matter, and neither is lost."""
    texts = encode(small, "red"), encode(small, "")
    generator = torch.Generator().manual_seed(3)
    patch = {"diffusion_model.out.2.weight": ("diff", (0.1 * torch.randn(4, 320, 3, 3, generator=generator),))}
    first, last = base.clone(), ella.apply(base, small)
    first.add_patches(patch)
    last.add_patches(patch)
    found = sample(ella.apply(first, small), *texts)
    assert torch.equal(found, sample(last, *texts))
    assert (found - sample(first, *texts)).abs().max() > 1e-3
    assert (found - sample(ella.apply(base, small), *texts)).abs().max() > 1e-3


def test_without_apply_ella_the_first_timesteps_tokens_stay(base, small):
    """Positive and negative still run in one call, although their texts differ."""
    model, recorder = base.clone(), Recorder()
    model.add_object_patch("diffusion_model", recorder)
    texts = encode(small, "red"), encode(small, "")
    sample(model, *texts)
    assert len(recorder.calls) == 4
    for part, ((tokens, _),) in enumerate(texts):
        assert all(torch.equal(found, tokens[0]) for _, found in recorder.rows(part))


def test_other_conditionings_pass_untouched(base, small):
    positive, negative = plain("red"), plain("")
    assert torch.equal(sample(ella.apply(base, small), positive, negative), sample(base, positive, negative))


def test_ella_beside_other_conditionings(base):
    """An ELLA positive with an ordinary negative, and with none (cfg 1)."""
    teller = Telling()
    for cfg, calls in ((3.0, 8), (1.0, 4)):
        model, recorder = recorded(base, teller)
        sample(model, encode(teller, "red"), plain(""), cfg=cfg)
        assert {said for _, said in heard(recorder, 0)} == {voice("red")}
        if cfg > 1:
            assert all(torch.equal(tokens, plain("")[0][0][0]) for _, tokens in recorder.rows(1))
        assert len(recorder.calls) == calls


def test_context_windows_and_function_wrappers(base):
    """ComfyUI's windows over a batch, and the single place that tiled diffusion takes."""
    teller, wrapped = Telling(), []
    model, recorder = recorded(base, teller)
    settings = ("standard_static", 1, False, "flat", 0, False)
    (model,) = ContextWindowsManualNode.execute(model, 4, 2, *settings, causal_window_fix=False).result

    def wrapper(apply_model, given):
        wrapped.append(given["c"]["c_crossattn"][0, 0, 0].item())
        return apply_model(given["input"], given["timestep"], **given["c"])

    model.set_model_unet_function_wrapper(wrapper)
    positive, negative = encode(teller, "red"), encode(teller, "")
    teller.calls.clear()
    sample(model, positive, negative, batch=6)
    assert {tuple(call.x.shape[:1]) for call in recorder.calls} == {(8,)}
    assert len(wrapped) == len(recorder.calls) == 8
    assert wrapped == [t for t, _ in heard(recorder, 0)]
    assert {said for _, said in heard(recorder, 1)} == {voice("")}
    assert len(teller.calls) == 8, "a text costs one call for all windows"


@pytest.mark.both_devices
def test_windowed_diffusion(base):
    """Wherever it stands: a text costs one call a step for all windows, and each window is told its tokens."""
    teller, found = Telling(), []
    texts = encode(teller, "red cube"), encode(teller, "")
    for windows_first in (True, False):
        model = windows.apply(base, "average", 32, 8, False, 0, 1) if windows_first else base
        model, recorder = recorded(model, teller)
        model = model if windows_first else windows.apply(model, "average", 32, 8, False, 0, 1)
        teller.calls.clear()
        found.append(sample(model, *texts, size=8))
        assert [tuple(call.x.shape) for call in recorder.calls] == [(2, 4, 4, 4)] * 4 * 9
        assert sum(len(t) for _, t in teller.calls) == 4 * 2
        for part, text in enumerate(("red cube", "")):
            assert all(tokens[0, :2].tolist() == [t, voice(text)] for t, tokens in recorder.rows(part))
    assert torch.equal(*found)


def test_the_last_of_two_ellas_counts(base, small):
    teller = Telling()
    model, recorder = recorded(ella.apply(base, small), teller)
    sample(model, encode(teller, "red"), encode(teller, ""))
    assert {said for _, said in heard(recorder, 0)} == {voice("red")}
    assert model.get_additional_models_with_key(ella.KEY)[0].model is teller.network


# What stays


def follower(model):
    (wrapper,) = model.get_wrappers(WrappersMP.CALC_COND_BATCH, ella.KEY)
    return wrapper.__self__


def test_nothing_is_left_behind(base, small):
    texts = encode(small, "red", clip=Clip()), encode(small, "", clip=Clip())
    kept = [(tokens.clone(), dict(rest)) for ((tokens, rest),) in texts]
    before, state, rng = sample(base, *texts), frozen(base), torch.get_rng_state()
    model = ella.apply(base, small)
    found = sample(model, *texts)
    assert torch.equal(torch.get_rng_state(), rng)
    assert torch.equal(sample(model, *texts), found), "same seed, same bits"
    assert not torch.equal(found, before)
    assert not follower(model).tokens
    assert small.network in [loaded.model.model for loaded in model_management.current_loaded_models]
    del model
    assert torch.equal(sample(base, *texts), before)
    assert frozen(base) == state
    assert not base.wrappers and not base.additional_models and not base.callbacks
    for ((tokens, rest),), (was, dictionary) in zip(texts, kept, strict=True):
        assert torch.equal(tokens, was) and rest == dictionary
        assert rest["model_conds"].keys() == {ella.KEY}


def test_an_interrupted_run_leaves_nothing(base):
    teller = Telling()
    model, _ = recorded(base, teller, interrupt_at=2)
    texts = encode(teller, "red"), encode(teller, "")
    with pytest.raises(model_management.InterruptProcessingException):
        sample(model, *texts)
    assert not follower(model).tokens


def test_what_is_kept_is_bounded(base):
    teller = Telling()
    model, recorder = recorded(base, teller)
    sizes = []
    watched = follower(model)
    watched.keep = 3
    recorder.register_forward_pre_hook(lambda *_: sizes.append(len(watched.tokens)))
    sample(model, encode(teller, "red"), encode(teller, ""), steps=5)
    assert max(sizes) == 3
    assert {said for _, said in heard(recorder, 0)} == {voice("red")}


# Other models


def kind(config):
    return SimpleNamespace(model=SimpleNamespace(model_config=config), get_model_object=None)


@pytest.mark.parametrize(
    "model, sentence",
    [
        (kind(comfy.supported_models.SDXL({"context_dim": 2048})), "of the kind SDXL, whose text is 2048 wide"),
        (kind(comfy.supported_models.Flux({"image_model": "flux"})), "of the kind Flux, which is no UNet"),
        (kind(comfy.supported_models.SD20({"context_dim": 1024})), "of the kind SD20, whose text is 1024 wide"),
    ],
)
def test_other_models_are_told(small, model, sentence, node_classes):
    with pytest.raises(ValueError, match=sentence):
        node_classes["PentimentoApplyELLA"].execute(model, small)


@pytest.mark.parametrize("name", ["inpaint", "ip2p"])
def test_sd15_with_more_channels_is_taken(name):
    teller = Telling()
    model, recorder = recorded(thin_models.host_model(name), teller)
    sample(model, encode(teller, "red"), encode(teller, ""))
    assert {said for _, said in heard(recorder, 0)} == {voice("red")}


def resampled(model, name):
    edm, flow = sampling_nodes.ModelSamplingContinuousEDM(), sampling_nodes.ModelSamplingSD3()
    return {
        "edm": lambda: edm.patch(model, "eps", 120.0, 0.002),
        "v edm": lambda: edm.patch(model, "v_prediction", 500.0, 0.03),
        "cosmos": lambda: edm.patch(model, "cosmos_rflow", 80.0, 0.002),
        "flow": lambda: flow.patch(model, 3.0),
        "v": lambda: sampling_nodes.ModelSamplingDiscrete().patch(model, "v_prediction", False),
        "zsnr": lambda: sampling_nodes.ModelSamplingDiscrete().patch(model, "v_prediction", True),
    }[name]()[0]


@pytest.mark.parametrize("name", ["edm", "v edm", "cosmos", "flow"])
def test_other_samplings_are_told(base, small, name):
    with pytest.raises(ValueError, match="which does not count timesteps from 0 to 999"):
        ella.apply(resampled(base, name), small)
    later = resampled(ella.apply(base, small), name)
    with pytest.raises(ValueError, match="which does not count timesteps from 0 to 999"):
        sample(later, encode(small, "red"), encode(small, ""))


def test_a_discrete_sampling_that_counts_otherwise_is_told():
    with pytest.raises(ValueError, match="ModelSamplingDiscrete, which does not count timesteps from 0 to 999"):
        ella.check_sampling(comfy.model_sampling.ModelSamplingDiscreteEDM())


@pytest.mark.parametrize("name", ["v", "zsnr"])
def test_v_prediction_is_taken(base, name):
    teller = Telling()
    model, recorder = recorded(resampled(base, name), teller)
    sample(model, encode(teller, "red"), encode(teller, ""))
    assert {said for _, said in heard(recorder, 0)} == {voice("red")}


def test_nodes(base, small, node_classes):
    """The three as a workflow has them."""
    text = node_classes["PentimentoELLATextEncode"]
    (model,) = node_classes["PentimentoApplyELLA"].execute(base, small).result
    (positive,) = text.execute(small, T5(), "red", FIXED, Clip(), "trigger").result
    (negative,) = text.execute(small, T5(), "", FLEXIBLE).result
    assert torch.equal(positive[0][0], encode(small, "red", FIXED, Clip(), "trigger")[0][0])
    expected = sample(ella.apply(base, small), positive, negative)
    assert torch.equal(sample(model, positive, negative), expected)
