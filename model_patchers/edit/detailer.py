"""Regions of pictures sampled anew at the model's own size, and pasted back.

A region is cut out as Crop to Mask does it, sampled with the rule of Differential Img2Img, and pasted as Paste Back
does it. Each region sees the results of the regions before it.
"""

import copy
import inspect
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import comfy.sample
import comfy.utils
import torch
from comfy import model_management
from comfy.model_patcher import ModelPatcher, create_model_options_clone
from comfy.samplers import KSAMPLER, CFGGuider, Sampler
from comfy.sd import CLIP, VAE
from torch import Tensor

from ..comfyui.conditioning import Conditioning
from ..comfyui.progress import Preview
from ..pixels import checks
from ..pixels.boxes import Box
from ..pixels.images import to_rgb
from ..pixels.masks import selected
from . import detailer_conditioning, detailer_regions, differential_img2img
from .crop_to_mask import cut, cut_mask
from .detailer_conditioning import Prompts, View
from .detailer_regions import Choice, Job, Region
from .paste_back import put_back, ramp

NODE = "Detailer"
MOST = 8  # regions in one batch
MARGIN = 1.5  # times memory_required must be free: ComfyUI's own margin for a call
LARGEST_SEED = 0xFFFFFFFFFFFFFFFF


def the_guider(
    guider: CFGGuider | None,
    model: ModelPatcher | None,
    positive: Conditioning | None,
    negative: Conditioning | None,
    cfg: float,
) -> CFGGuider:
    """The guider that is connected, or CFG of a model and two prompts.

    Raises:
        ValueError: Both are connected, or neither is complete.
    """
    prompted = {"model": model, "positive": positive, "negative": negative}
    if guider is not None:
        if connected := [name for name, value in prompted.items() if value is not None]:
            raise ValueError(
                f"{NODE}: guider and {', '.join(connected)} are connected. The guider has its own model and prompts: "
                "disconnect either the guider or the others."
            )
        return guider
    if missing := [name for name, value in prompted.items() if value is None]:
        raise ValueError(
            f"{NODE}: {', '.join(missing)} is not connected. Connect model, positive and negative, or connect a guider "
            "alone, such as CFG Guider or Basic Guider."
        )
    made = CFGGuider(model)
    made.set_conds(positive, negative)
    made.set_cfg(cfg)
    return made


def the_prompts(text: str, clip: CLIP | None, guider: CFGGuider) -> Prompts:
    """The regions' own prompts.

    Raises:
        ValueError: There are texts but no text encoder, or the guider has no prompt to replace.
    """
    texts = detailer_conditioning.split(text)
    if any(each not in ("", detailer_conditioning.SKIP) for each in texts):
        if clip is None:
            raise ValueError(
                f"{NODE}: prompts has text, but clip is not connected. Connect the text encoder, or clear prompts."
            )
        if "positive" not in guider.original_conds:
            raise ValueError(
                f"{NODE}: prompts has text, but the guider has no positive conditioning to replace. Use CFG Guider or "
                "Basic Guider, or clear prompts."
            )
    return Prompts(texts, clip)


class Prepared(NamedTuple):
    """A job that is cut out and encoded.

    Attributes:
        alphas: Of each frame, (h, w) of its region: the opacity of the edit.
        view: Its crops, their masks and their latent.
        noise_mask: Of the latent, as Differential Img2Img makes it.
        prompts: The guider's conditionings, cut to the region.
    """

    job: Job
    alphas: list[Tensor]
    view: View
    noise_mask: Tensor
    prompts: dict[str, Conditioning]

    @property
    def signature(self) -> Any:
        """Equal for jobs that can be sampled in one batch."""
        return tuple(self.view.samples.shape), detailer_conditioning.signature(self.prompts)


def opacity(region: Region, size: tuple[int, int], feather: int) -> Tensor:
    """How opaque a region's edit is: its part's mask, faded in over `feather` pixels: (box.height, box.width).

    Args:
        size: (H, W) of the picture, whose border is no rim.
    """
    outer, part = region.box.expand(1, size), region.part
    mask = part.mask.new_zeros(outer.height, outer.width)
    mask[Box(part.box.x - outer.x, part.box.y - outer.y, part.box.width, part.box.height).slices] = part.mask
    inner = Box(region.box.x - outer.x, region.box.y - outer.y, region.box.width, region.box.height)
    return (mask * ramp(selected(mask), feather))[inner.slices]


@dataclass
class Run:
    """The sampling of all jobs, with what they share.

    Attributes:
        image: (B, H, W, C). It is written to.
        mask: (B, H, W), the opacity of all edits together. It is written to.
        whole: The guider's conditionings, as nodes pass them: for the whole picture.
        crops: The edited crops of each job so far, (T, edge, edge, 3).
    """

    image: Tensor
    guider: CFGGuider
    vae: VAE
    sampler: Sampler
    sigmas: Tensor
    seed: int
    prompts: Prompts
    edge: int
    feather: int
    preview: Preview | None = None
    mask: Tensor = field(init=False)
    crops: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.mask = self.image.new_zeros(self.image.shape[:3])
        self.whole = {
            name: [
                [cond.get("cross_attn"), {k: v for k, v in cond.items() if k not in ("cross_attn", "uuid")}]
                for cond in conds
            ]
            for name, conds in self.guider.original_conds.items()
        }

    # Cut out

    def cut_out(self, job: Job) -> tuple[list[Tensor], Tensor, Tensor]:
        """The opacities of a job's frames, their crops (T, edge, edge, 3) and the crops' masks (T, edge, edge)."""
        size, edge = tuple(self.image.shape[1:3]), self.edge
        alphas = [opacity(region, size, self.feather) for region in job.regions]
        crops = [cut(to_rgb(self.image[region.picture]), region.box, edge, edge) for region in job.regions]
        whole = [Box(0, 0, region.box.width, region.box.height) for region in job.regions]
        masks = [cut_mask(alpha, box, edge, edge) for alpha, box in zip(alphas, whole, strict=True)]
        return alphas, torch.stack(crops), torch.stack(masks)

    def prepare(self, job: Job) -> Prepared:
        """Cuts a job out of the picture as it is now, and encodes it.

        Raises:
            ValueError: The VAE is another model's.
        """
        alphas, crops, masks = self.cut_out(job)
        latent = differential_img2img.encode(self.vae, *self.filled_up(crops, masks))
        samples = latent["samples"]
        channels = self.guider.model_patcher.get_model_object("latent_format").latent_channels
        if samples.shape[1] != channels:
            raise ValueError(
                f"{NODE}: vae makes latents of {samples.shape[1]} channels, but the model's latents have {channels}. "
                "Connect the VAE of the model."
            )
        pictures, boxes = [each.picture for each in job.regions], [each.box for each in job.regions]
        view = View(pictures, boxes, tuple(self.image.shape[1:3]), crops, masks, samples, self.vae)
        prompts = self.whole
        if "positive" in prompts:
            prompts = {**prompts, "positive": self.prompts.of(job.number, prompts["positive"])}
        return Prepared(job, alphas, view, latent["noise_mask"], detailer_conditioning.cut_to(view, prompts))

    def filled_up(self, crops: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Frames with the last one repeated, up to a number that the VAE encodes whole: 1 + k r."""
        missing = (1 - len(crops)) % (self.vae.temporal_compression_decode() or 1)
        repeated = [*range(len(crops)), *[len(crops) - 1] * missing]
        return crops[repeated], masks[repeated]

    # Sample

    def limit(self, samples: Tensor) -> int:
        """The most jobs with latents like `samples` in one batch.

        It is 1 for samplers that draw noise: they draw it for the whole batch, so that a region would depend on the
        others.
        """
        if draws_noise(self.sampler):
            return 1
        model = self.guider.model_patcher
        free = model_management.get_total_memory(model.load_device) - model.model_size()
        for count in range(MOST, 1, -1):
            if model.memory_required([2 * count, *samples.shape[1:]]) * MARGIN < free:
                return count
        return 1

    def sample(self, batch: list[Prepared]) -> None:
        """Samples jobs with equal signatures, and pastes them."""
        guider = copy.copy(self.guider)
        guider.original_conds = {}
        guider.inner_set_conds(detailer_conditioning.merged([each.prompts for each in batch]))
        seeds = [(self.seed + each.job.seed) & LARGEST_SEED for each in batch]
        latents = torch.cat([each.view.samples for each in batch])
        noise = [comfy.sample.prepare_noise(each.view.samples, seed) for each, seed in zip(batch, seeds, strict=True)]
        samples = guider.sample(
            torch.cat(noise),
            latents,
            self.sampler,
            self.sigmas.clone(),  # ComfyUI's uni_pc writes to them
            denoise_mask=torch.cat([each.noise_mask for each in batch]),
            callback=self.preview.run([len(batch)] * (len(self.sigmas) - 1)),
            disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
            seed=seeds[0],
        ).to(model_management.intermediate_device())
        for each, one in zip(batch, samples.split(1), strict=True):
            decoded = self.vae.decode(one)
            frames = decoded.reshape(-1, *decoded.shape[-3:])[: len(each.alphas)]
            self.paste(each.job, each.alphas, each.view.crops, each.view.change, to_rgb(frames).to(each.view.crops))

    def paste(self, job: Job, alphas: list[Tensor], crops: Tensor, masks: Tensor, edited: Tensor) -> None:
        """Puts edited crops (T, edge, edge, 3) back.

        Raises:
            ValueError: A pixel is not finite.
        """
        checks.finite(edited, f"{NODE}'s region {job.number + 1}, as the VAE decodes it,")
        for k, (region, alpha) in enumerate(zip(job.regions, alphas, strict=True)):
            at = (region.picture, *region.box.slices)
            self.image[at] = put_back(self.image[at], alpha, edited[k], crops[k], masks[k], region.box, "off")
            self.mask[at] = torch.maximum(self.mask[at], alpha)
        self.crops.append(edited)

    def all(self, jobs: list[Job]) -> None:
        """Samples all jobs, in batches of those that do not touch."""
        if len(self.sigmas) < 2:
            for job in jobs:
                alphas, crops, masks = self.cut_out(job)
                self.paste(job, alphas, crops, masks, crops)
            return
        side = self.edge // self.vae.spacial_compression_encode()
        self.preview = Preview(self.guider.model_patcher, len(jobs) * (len(self.sigmas) - 1), (side, side))
        batch: list[Prepared] = []
        for job in jobs:
            if any(sees(job, earlier.job) for earlier in batch):
                self.sample(batch)
                batch = []
            prepared = self.prepare(job)
            if batch and (len(batch) == self.limit(prepared.view.samples) or batch[0].signature != prepared.signature):
                self.sample(batch)
                batch = []
            batch.append(prepared)
        if batch:
            self.sample(batch)


def sees(job: Job, earlier: Job) -> bool:
    """Whether a job's crops show what an earlier job edits."""
    parts = {region.picture: region.part.box for region in earlier.regions}
    return any(_touch(region.box, parts[region.picture]) for region in job.regions if region.picture in parts)


def _touch(a: Box, b: Box) -> bool:
    return a.x < b.x + b.width and b.x < a.x + a.width and a.y < b.y + b.height and b.y < a.y + a.height


def with_soft_mask(guider: CFGGuider) -> CFGGuider:
    """A copy of a guider whose model frees each pixel in its own step, by the rule of Differential Img2Img."""
    guider, slot = copy.copy(guider), differential_img2img.SLOT
    guider.model_patcher = differential_img2img.patch(guider.model_patcher, "paper")
    guider.model_options = create_model_options_clone(guider.model_options)
    guider.model_options[slot] = guider.model_patcher.model_options[slot]
    return guider


def draws_noise(sampler: Sampler) -> bool:
    """Whether a sampler may draw noise while it samples, or choose its steps by the whole batch."""
    if not isinstance(sampler, KSAMPLER):
        return True
    parameters = inspect.signature(sampler.sampler_function).parameters
    wraps_another = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    churns = bool(sampler.extra_options.get("s_churn")) or bool(sampler.inpaint_options.get("random"))
    return "noise_sampler" in parameters or wraps_another or churns


def detail(
    image: Tensor,
    vae: VAE,
    sampler: Sampler,
    sigmas: Tensor,
    seed: int,
    guider: CFGGuider,
    prompts: Prompts,
    boxes: Any,
    mask: Tensor | None,
    choice: Choice,
    feather: int,
) -> tuple[Tensor, list[Tensor], Tensor]:
    """Samples regions of pictures anew.

    Args:
        image: (B, H, W, C).
        sigmas: Empty: nothing is sampled, and the picture keeps its bits.
        boxes, mask: As in detailer_regions.jobs.
        choice: Its edge is rounded down to whole latent pixels.
        feather: Pixels of the picture over which an edit fades in.

    Returns:
        The pictures, the edited crops (T, edge, edge, 3) of each job, and the opacity of all edits (B, H, W).

    Raises:
        ValueError: As detailer_regions.jobs and Run.prepare; neither boxes nor a mask is connected.
    """
    if boxes is None and mask is None:
        raise ValueError(f"{NODE} needs regions: connect bboxes of a detector or of Pick Points, or a mask.")
    ratio = vae.spacial_compression_encode()
    choice = choice._replace(edge=max(choice.edge // ratio, 1) * ratio)
    clips = vae.latent_dim == 3 and not vae.not_video
    jobs = detailer_regions.jobs(image, boxes, mask, choice, clips)
    jobs = [job for job in jobs if not prompts.skips(job.number)]
    run = Run(image.clone(), with_soft_mask(guider), vae, sampler, sigmas, seed, prompts, choice.edge, feather)
    run.all(jobs)
    return run.image, run.crops, run.mask
