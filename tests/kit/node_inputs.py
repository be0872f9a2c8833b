"""Small inputs for every node that takes more than settings. A new node gets a method here, named as its id."""

import json
from fractions import Fraction
from functools import cache
from types import SimpleNamespace

import safetensors.torch
import torch
from comfy.samplers import CFGGuider, sampler_object
from comfy_api.latest import InputImpl, Types
from comfy_extras.nodes_custom_sampler import Noise_RandomNoise

from pentimento.model_patchers.video import track
from pentimento_host import standins

from . import clips, faces, ostrack, run, sam, sam2, sttn, thin, toy_network
from . import vae as vaes
from .tensors import rand, randn

POINTS = json.dumps([{"x": 20, "y": 30}])
SIGMAS = torch.tensor([14.0, 2.0, 0.0])


def put_files(folder):
    """Stand-ins of the files that nodes load."""
    standins.ella(folder / "ella.safetensors")
    standins.flan_t5(folder / "t5.safetensors")
    standins.lama(folder / "lama.pt")
    standins.lpips(folder / "alex.pth")
    standins.alexnet(folder / "alexnet.pth")
    standins.unclip_statistics(folder / "stats.th")
    offsets = {name: 0.2 * (weight - weight.mean()) for name, weight in thin.weights("ip2p", seed=1).items()}
    safetensors.torch.save_file(offsets, folder / "ic_light.safetensors")


class NodeInputs:
    """`of(node_id)` gives a node's inputs. Outputs of other nodes of the pack are made with these nodes."""

    def __init__(self, node_classes):
        self.nodes = {name.removeprefix("Pentimento"): cls for name, cls in node_classes.items()}
        self.result = cache(lambda name, *inputs: self.nodes[name].execute(*inputs).result)
        self.model = cache(thin.host_model)
        self.sam = cache(lambda: sam.load(sam.reference(width=32, depth=2).state_dict()))
        self.sttn, self.ostrack = cache(sttn.load), cache(ostrack.load)
        self.sam2 = cache(lambda: sam2.load(sam2.reference().state_dict()))
        self.vae = cache(vaes.tiny)

    def of(self, node_id):
        return getattr(self, node_id.removeprefix("Pentimento"))()

    def prompts(self, width=768):
        return dict(zip(("positive", "negative"), run.prompts(width), strict=True))

    def key_frames(self):
        return self.result("KeyFrame", 0, 2, POINTS)[0]

    def picture(self):
        return {"image": rand(2, 64, 72, 3)}

    def picture_and_mask(self):
        mask = torch.zeros(1, 64, 72)
        mask[:, 20:40, 16:40] = 0.5
        return {"image": rand(2, 64, 72, 3), "mask": mask}

    def ApplyELLA(self):
        return {"model": self.model("sd15"), "ella": self.result("LoadELLA", "ella.safetensors")[0]}

    def BoxesToMask(self):
        boxes = [{"x": 5, "y": 6.5, "width": 20.5, "height": 9}, {"x": 30, "y": 0, "width": 9, "height": 9}]
        return self.picture() | {"bboxes": boxes, "each": "one per box"}

    def AttentionCouple(self):
        positive = [[randn(1, 77, 768, seed=seed), {"mask": rand(1, 64, 64, seed=seed)}] for seed in (1, 2)]
        return self.prompts() | {"model": self.model("sd15"), "positive": positive}

    def ChangeMap(self):
        return {"source": rand(2, 9, 12, 3), "blur": 1, "invert": True}

    def Compare(self):
        return {"image_a": rand(2, 8, 9, 3), "image_b": rand(1, 16, 18, 4)}

    def CropToMask(self):
        return self.picture_and_mask() | {"width": 64, "height": 64}

    def DemoFusion(self):
        return self.prompts() | {
            "model": toy_network.patcher(toy_network.Neighbours()),
            "sampler": sampler_object("euler"),
            "sigmas": SIGMAS.clone(),
            "latent": {"samples": randn(1, 4, 8, 8), "noise_mask": torch.ones(1, 1, 64, 64)},
            "window": 64,
            "overlap": 24,
        }

    def DepthConditioning(self):
        return self.prompts(1024) | {"latent": {"samples": randn(1, 4, 6, 8)}, "depth": rand(1, 50, 70, 3)}

    def Detailer(self):
        model, mask = toy_network.patcher(toy_network.Prompted()), torch.zeros(1, 64, 72)
        mask[:, 8:40, 8:40] = 0.5
        return self.prompts() | {
            "image": rand(2, 64, 72, 3),
            "vae": self.vae(),
            "sampler": sampler_object("euler"),
            "sigmas": SIGMAS.clone(),
            "model": model,
            "bboxes": [{"x": 10, "y": 12, "width": 20, "height": 18}],
            "mask": mask,
            "size": 64,
        }

    def DetailTuner(self):
        return {"model": self.model("sd2"), "detail_1": 3.0, "detail_2": -2.0, "contrast_1": 2.0, "colour_1": 5.0}

    def DifferentialImg2Img(self):
        model = toy_network.patcher(toy_network.Neighbours())
        return self.picture() | {"model": model, "vae": self.vae(), "change_map": rand(1, 64, 72)}

    def DynamicThresholding(self):
        return {"model": toy_network.patcher(toy_network.Prompted()), "mimic_scale": 2.0}  # below the tests' CFG scale

    def ELLATextEncode(self):
        ella, t5 = self.ApplyELLA()["ella"], self.result("LoadELLAT5", "t5.safetensors", "fp32")[0]
        return {"ella": ella, "t5": t5, "text": "a cat"}

    def ExposureBrackets(self):
        return {"image": rand(1, 9, 12, 3)}

    def ExposureFusion(self):
        return {"images": rand(3, 9, 12, 3)}

    def FillFromFrames(self):
        mask = torch.zeros(1, 48, 64)
        mask[:, 20:32, 10:22] = 0.5
        return {"images": rand(3, 48, 64, 3), "mask": mask, "optical_flow": clips.flow_model(clips.StillFlow())}

    def FillWithoutModel(self):
        return self.picture_and_mask()

    def HiDiffusion(self):
        return {"model": self.model("sd2"), "preset": "sd15 1024"}

    def GradeBrackets(self):
        return {"model": toy_network.patcher(toy_network.Neighbours())}

    def ICLight(self):
        return {"model": self.model("sd15"), "ic_light_name": "ic_light.safetensors"}

    def ICLightConditioning(self):
        pictures = {"foreground": rand(1, 64, 64, 3), "foreground_mask": rand(1, 64, 64, seed=1)}
        return self.prompts() | {"vae": self.vae(), **pictures}

    def IP2PConditioning(self):
        return self.prompts() | {"vae": self.vae(), "image": rand(1, 64, 64, 3)}

    def IP2PGuider(self):
        prompts = self.nodes["IP2PConditioning"].execute(**self.IP2PConditioning(), fit="multiple of 8")
        positive, negative, _ = prompts.result
        return {"model": self.model("ip2p"), "positive": positive, "negative": negative}

    def IP2PPatch(self):
        return {"model": self.model("ip2p"), "image_cfg": 1.5}

    def InspectModel(self):
        return {"model": self.model("sd15")}

    def KeyFrame(self):
        return {"frame": 1, "mask": self.picture_and_mask()["mask"], "before": self.key_frames()}

    def LaMaFill(self):
        return self.picture_and_mask() | {"lama": self.result("LoadLaMa", "lama.pt")[0], "refine_steps": 2}

    def LatentMirror(self):
        return {"model": toy_network.patcher(toy_network.Prompted()), "max_fraction": 1.0}

    def LatentGrade(self):
        model = toy_network.patcher(toy_network.Neighbours())
        return {"model": model, "brightness": 0.3, "contrast": 0.1, "red": 0.1}

    def MagicWand(self):
        return self.picture() | {"positive_coords": POINTS}

    def MaskToBoxes(self):
        return {"mask": rand(2, 30, 40), "min_area": 3, "padding": 2}

    def MergeHistory(self):
        return {"images": rand(4, 9, 12, 3), "batch_size": 2}

    def OSTrack(self):
        return {"ostrack": self.ostrack(), "images": rand(3, 64, 72, 3), "bboxes": ostrack.start() | {"x": 20, "y": 20}}

    def OutpaintCanvas(self):
        return self.picture() | {"left": 8, "bottom": 8}

    def PasteBack(self):
        crops = self.nodes["CropToMask"].execute(**self.CropToMask(), padding=4, regions="one").result[2]
        return {"crops": crops, "image": rand(2, 64, 64, 3, seed=1)}

    def PickPoints(self):
        return self.picture()

    def RegionalPrompt(self):
        t5 = self.result("LoadELLAT5", "t5.safetensors", "fp32")[0]
        settings = {"text": "a park ADDBASE a cat", "width": 32, "height": 24}
        return {"clip": t5, **settings, "ratios": "1,1", "base_ratio": 0.2, "masks": rand(1, 24, 32)}

    def RemoveFromVideo(self):
        mask = torch.zeros(1, 64, 72)
        mask[:, 20:40, 16:40] = 0.5
        video = InputImpl.VideoFromComponents(Types.VideoComponents(rand(2, 64, 72, 3), Fraction(24)))
        return {"video": video, "mask": mask, "rest": "lama", "lama": self.result("LoadLaMa", "lama.pt")[0]}

    def RestoreFace(self):
        points = [faces.placed(30, 30, 40)]
        return self.picture() | {
            "face_model": faces.face_model(faces.Echo(0.2)),
            "landmarks": faces.landmarks((64, 72), points, points),
        }

    def SAMSegment(self):
        box, mask = {"x": 5, "y": 5, "width": 40, "height": 30}, rand(1, 64, 72, seed=1)
        return self.picture() | {"sam": self.sam(), "positive_coords": POINTS, "bboxes": box, "mask_prompt": mask}

    def SAMSegmentEverything(self):
        thresholds = {"pred_iou_thresh": 0.0, "stability_score_thresh": 0.0, "min_area": 5}
        return self.picture() | {"sam": self.sam(), "points_per_side": 2} | thresholds

    def SDx4Conditioning(self):
        return self.prompts(1024) | {"image": rand(1, 8, 8, 3)}

    def STTNFill(self):
        inputs = self.picture_and_mask()
        return {"sttn": self.sttn(), "images": inputs["image"], "mask": inputs["mask"]}

    def ScoreImage(self):
        return self.picture() | {
            "reference": rand(1, 64, 72, 3, seed=1),
            "lpips_name": "alex.pth",
            "backbone_name": "alexnet.pth",
        }

    def SamplerHistory(self):
        guider = CFGGuider(toy_network.patcher(toy_network.Prompted()))
        guider.set_conds(*run.prompts(768))
        guider.set_cfg(4.0)
        return {
            "noise": Noise_RandomNoise(3),
            "guider": guider,
            "sampler": sampler_object("euler"),
            "sigmas": SIGMAS.clone(),
            "latent_image": {"samples": randn(1, 4, 8, 8)},
            "keep": 2,
        }

    def SamplerOptions(self):
        return {"sampler_name": "euler", "s_churn": 1.0, "noise_seed_offset": 31337}

    def SkipResidual(self):
        return {"sampler": sampler_object("euler")}

    def TiledVAEDecode(self):
        return {"latent": {"samples": randn(1, 4, 18, 16)}, "vae": self.vae(), "tile": 128}

    def TiledVAEEncode(self):
        return {"image": rand(1, 144, 128, 3), "vae": self.vae(), "tile": 128}

    def Track(self):
        return {"sam2": self.sam2(), "images": rand(2, 64, 72, 3), "key_frames": self.key_frames()}

    def TrackToMask(self):
        logits = randn(8, 8)
        return {"track": track.Track(16, 18, {1: (logits, None), 2: (-logits, logits)}, overlap=False), "objects": "2"}

    def TrackVideo(self):
        clip = Types.VideoComponents(images=rand(2, 64, 72, 3), audio=None, frame_rate=Fraction(25))
        keys = self.key_frames()
        return {"sam2": self.sam2(), "video": InputImpl.VideoFromComponents(clip), "key_frames": keys}

    def TrackWithoutModel(self):
        mask = torch.zeros(1, 64, 72)
        mask[0, 5:20, 5:30] = 0.5
        return {"key_frames": (track.KeyFrame(0, 1, mask=mask),), "images": rand(4, 64, 72, 3)}

    def TuneMask(self):
        return {"mask": rand(2, 30, 40), "grow": 2, "fill_holes": 9, "remove_specks": 9, "feather": 3, "invert": True}

    def UnCLIPEncode(self):
        vision = SimpleNamespace(encode_image=lambda image, crop: SimpleNamespace(image_embeds=randn(len(image), 768)))
        conditioning = self.prompts(1024)["positive"]
        return self.picture() | {"conditioning": conditioning, "clip_vision": vision, "noise_level": 100}

    def UnCLIPStats(self):
        return {"model": self.model("unclip_l"), "stats_name": "stats.th"}

    def VAESaturation(self):
        return {"vae": vaes.thin("sd"), "saturation_1": 3.0, "saturation_2": -2.0}

    def Wildcards(self):
        return {"text": "{a|b} {2$$c|d|e}", "seed": 1, "mode": "combinatorial"}

    def Windows(self):
        return {"model": toy_network.patcher(toy_network.Neighbours()), "window": 64, "overlap": 24}
